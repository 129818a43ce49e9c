//! Records that look like somebody's: orders, clicks, sensor readings, people. The same seed makes
//! the same ones, on every machine.

use std::fmt::Write as _;

use fastrand::Rng;

/// Kind of the records that are made up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Orders of a shop; the key is the customer, some of whom order much more than others.
    #[default]
    Orders,
    /// Clicks on a site; the key is the user, whose clicks belong to sessions.
    Clicks,
    /// Readings of sensors, each of which drifts; the key is the sensor.
    Sensors,
    /// People; the key is their number, each once.
    People,
}

impl Kind {
    /// Reads the flag's word.
    ///
    /// # Errors
    /// A sentence that lists the words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "orders" => Self::Orders,
            "clicks" => Self::Clicks,
            "sensors" => Self::Sensors,
            "people" => Self::People,
            _ => return Err(format!("`{text}` is not a kind of fake records; write orders, clicks, sensors or people")),
        })
    }

    /// The flag's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Clicks => "clicks",
            Self::Sensors => "sensors",
            Self::People => "people",
        }
    }
}

/// Makes records, one after the other.
pub struct Fake {
    kind: Kind,
    rng: Rng,
    /// The next one's number, from 0.
    number: u64,
    /// Of the next one, in milliseconds since 1970.
    at: i64,
    /// Last readings of each sensor: temperature, humidity, battery.
    sensors: Vec<[f64; 3]>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its number, from 0.
    pub number: u64,
    /// The key that such records have.
    pub key: String,
    /// A JSON object without its braces.
    pub fields: String,
}

impl Made {
    /// The record as a JSON object.
    pub fn json(&self) -> String {
        format!("{{{}}}", self.fields)
    }

    /// The same with its number as `i`, for templates.
    pub fn numbered(&self) -> String {
        format!(r#"{{"i":{},{}}}"#, self.number, self.fields)
    }
}

/// 2026-01-01T00:00:00Z: the times in records are made up as well, or no two runs would be the
/// same.
const BEGIN: i64 = 1_767_225_600_000;
const CUSTOMERS: u32 = 2_000;
const SENSORS: usize = 200;

impl Fake {
    /// Makes records of this kind.
    pub fn new(kind: Kind, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x6c6f_6e67_7368_6f72);
        let sensors = (0..SENSORS).map(|_| [12.0 + rng.f64() * 16.0, 35.0 + rng.f64() * 40.0, 0.6 + rng.f64() * 0.4]).collect();
        Self { kind, rng, number: 0, at: BEGIN, sensors }
    }

    /// The next record.
    pub fn make(&mut self) -> Made {
        let number = self.number;
        self.number += 1;
        self.at += self.rng.i64(1..400);
        let (key, fields) = match self.kind {
            Kind::Orders => self.order(number),
            Kind::Clicks => self.click(),
            Kind::Sensors => self.reading(),
            Kind::People => self.person(number),
        };
        Made { number, key, fields }
    }

    fn time(&self) -> String {
        jiff::Timestamp::from_millisecond(self.at).map(|at| format!("{at:.3}")).unwrap_or_default()
    }

    /// Few numbers often, many seldom.
    fn skewed(&mut self, most: u32) -> u32 {
        let share = self.rng.f64();
        ((share * share.sqrt() * f64::from(most)) as u32).min(most - 1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(..from.len())]
    }

    fn order(&mut self, number: u64) -> (String, String) {
        let customer = format!("c-{:04}", self.skewed(CUSTOMERS));
        let (item, cents) = self.pick(ITEMS);
        let quantity = 1 + self.skewed(6);
        let (country, currency) = self.pick(COUNTRIES);
        let total = u64::from(cents) * u64::from(quantity);
        let at = self.time();
        let fields = format!(
            r#""order":"o-{:07}","customer":"{customer}","item":"{item}","quantity":{quantity},"price":{}.{:02},"total":{}.{:02},"currency":"{currency}","country":"{country}","at":"{at}""#,
            number + 1,
            cents / 100,
            cents % 100,
            total / 100,
            total % 100,
        );
        (customer, fields)
    }

    fn click(&mut self) -> (String, String) {
        let user = self.skewed(5_000);
        // A session lasts about half an hour of the made-up time.
        let session = (u64::from(user) << 24 | (self.at / 1_800_000) as u64 & 0xff_ffff).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let (page, before) = (self.pick(PAGES), self.pick(PAGES));
        let (browser, ms, at) = (self.pick(BROWSERS), 20 + self.skewed(1_500), self.time());
        let user = format!("u-{user:05}");
        let fields = format!(
            r#""user":"{user}","session":"{session:010x}","page":"{page}","from":"{before}","browser":"{browser}","ms":{ms},"at":"{at}""#
        );
        (user, fields)
    }

    fn reading(&mut self) -> (String, String) {
        let at = self.rng.usize(..SENSORS);
        let steps = [self.rng.f64() - 0.5, self.rng.f64() - 0.5, self.rng.f64()];
        let [temperature, humidity, battery] = &mut self.sensors[at];
        *temperature = (*temperature + 0.3 * steps[0]).clamp(-20.0, 45.0);
        *humidity = (*humidity + steps[1]).clamp(5.0, 99.0);
        *battery = if *battery < 0.05 { 1.0 } else { *battery - 0.000_2 * steps[2] };
        let sensor = format!("s-{at:03}");
        let mut fields = format!(r#""sensor":"{sensor}","temperature":{temperature:.1},"humidity":{humidity:.1},"battery":{battery:.2}"#);
        let _ = write!(fields, r#","at":"{}""#, self.time());
        (sensor, fields)
    }

    fn person(&mut self, number: u64) -> (String, String) {
        let (first, last) = (self.pick(FIRST), self.pick(LAST));
        let (city, country) = self.pick(CITIES);
        let (year, month, day) = (1940 + self.skewed(70), 1 + self.rng.u32(..12), 1 + self.rng.u32(..28));
        let key = format!("p-{:07}", number + 1);
        let mail = format!("{}.{}{}@example.com", first.to_ascii_lowercase(), last.to_ascii_lowercase(), number + 1);
        let fields = format!(
            r#""id":"{key}","name":"{first} {last}","email":"{mail}","born":"{year}-{month:02}-{day:02}","city":"{city}","country":"{country}""#
        );
        (key, fields)
    }
}

const ITEMS: &[(&str, u32)] = &[
    ("espresso machine", 24_900),
    ("coffee beans 1 kg", 1_890),
    ("grinder", 8_950),
    ("paper filters", 349),
    ("kettle", 4_500),
    ("milk jug", 1_250),
    ("cup, blue", 790),
    ("cup, white", 790),
    ("descaler", 690),
    ("scale", 2_995),
    ("gift card", 5_000),
    ("tea sampler", 1_575),
];
const COUNTRIES: &[(&str, &str)] = &[
    ("DE", "EUR"),
    ("FR", "EUR"),
    ("IT", "EUR"),
    ("NL", "EUR"),
    ("SE", "SEK"),
    ("PL", "PLN"),
    ("GB", "GBP"),
    ("US", "USD"),
    ("JP", "JPY"),
];
const PAGES: &[&str] = &["/", "/search", "/item/17", "/item/42", "/item/99", "/cart", "/checkout", "/account", "/help", "/sale"];
const BROWSERS: &[&str] = &["Firefox", "Chrome", "Safari", "Edge", "Chrome Mobile", "Safari Mobile"];
const FIRST: &[&str] = &[
    "Ada", "Ben", "Chloe", "David", "Elena", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Lena", "Marta", "Nils", "Olga", "Pavel",
    "Rosa", "Sami", "Tara", "Yusuf",
];
const LAST: &[&str] = &[
    "Berg", "Costa", "Dubois", "Eriksson", "Fischer", "Garcia", "Hansen", "Ito", "Jansen", "Kowalski", "Lopez", "Meyer", "Novak", "Okafor",
    "Peters", "Rossi", "Silva", "Tanaka", "Weber", "Young",
];
const CITIES: &[(&str, &str)] = &[
    ("Berlin", "DE"),
    ("Lyon", "FR"),
    ("Turin", "IT"),
    ("Utrecht", "NL"),
    ("Lund", "SE"),
    ("Gdansk", "PL"),
    ("Leeds", "GB"),
    ("Austin", "US"),
    ("Osaka", "JP"),
    ("Porto", "PT"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{Fake, Kind, Made};

    fn some(kind: Kind, seed: u64, count: usize) -> Vec<Made> {
        let mut fake = Fake::new(kind, seed);
        (0..count).map(|_| fake.make()).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_records_and_another_one_others() {
        for kind in [Kind::Orders, Kind::Clicks, Kind::Sensors, Kind::People] {
            assert_eq!(some(kind, 7, 300), some(kind, 7, 300));
            assert_ne!(some(kind, 7, 300), some(kind, 8, 300));
            assert_eq!(Kind::parse(kind.name()), Ok(kind));
        }
        let first = &some(Kind::Orders, 0, 1)[0];
        let again = &some(Kind::Orders, 0, 1)[0];
        assert_eq!(first.json(), again.json());
    }

    #[test]
    fn every_record_is_json_with_its_key_in_it_and_a_number_for_templates() {
        for kind in [Kind::Orders, Kind::Clicks, Kind::Sensors, Kind::People] {
            for (at, made) in some(kind, 3, 500).iter().enumerate() {
                let json: serde_json::Value = serde_json::from_str(&made.json()).unwrap();
                let values = json.as_object().unwrap().values().filter(|value| value.as_str() == Some(&made.key)).count();
                assert_eq!(values, 1, "{}", made.json());
                let numbered: serde_json::Value = serde_json::from_str(&made.numbered()).unwrap();
                assert_eq!(numbered["i"], at);
            }
        }
    }

    #[test]
    fn some_customers_order_much_more_than_others() {
        let mut orders: HashMap<String, u32> = HashMap::new();
        for made in some(Kind::Orders, 1, 20_000) {
            *orders.entry(made.key).or_default() += 1;
        }
        assert!(orders.len() > 1_000, "{}", orders.len());
        // Ten would be everybody's share.
        assert!(orders["c-0000"] > 60, "{}", orders["c-0000"]);
    }
}
