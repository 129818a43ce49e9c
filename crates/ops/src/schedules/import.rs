//! Reads the `beat_schedule` of a Celery application, as `import.py` prints it. Pure.

use std::time::Duration;

use longshore_celery::{Value, WireSignature};
use longshore_worker::{Schedule, ScheduleOrigin, Timing};

/// Schedules that were read, and those that were not.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImportedSchedules {
    /// Those that mean here what they mean there.
    pub schedules: Vec<Schedule>,
    /// The others.
    pub refused: Vec<RefusedSchedule>,
}

/// A schedule that is not known here, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedSchedule {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Program in Python that prints the `beat_schedule` of the application that is its argument, as
/// [`import`] reads it.
pub const SCRIPT: &str = include_str!("import.py");

/// Refusal of a crontab that is read by the clock of whichever machine beat runs on.
const LOCAL: &str = "the application has enable_utc=False and names no timezone, so Celery reads its crontabs by the clock of the machine; \
                     give it one, such as timezone = \"Europe/Berlin\", and import it again";

/// Reads what [`SCRIPT`] prints. A crontab keeps Celery's meaning: where it names a day of the
/// month and a day of the week, both must match.
///
/// # Errors
/// The text: it is not that.
pub fn import(printed: &[u8]) -> Result<ImportedSchedules, String> {
    let value = Value::parse(printed, 100).map_err(|error| format!("it is not JSON: {error}"))?;
    let Some(entries) = value.get("beat_schedule").and_then(Value::as_map) else {
        return Err("it has no member beat_schedule: it is to be what the script prints (longshore schedule import --script)".to_owned());
    };
    let zone = value.get("timezone").and_then(Value::as_str);
    let mut imported = ImportedSchedules::default();
    for (name, entry) in entries.iter() {
        match one(name, entry, zone) {
            Ok(schedule) => imported.schedules.push(schedule),
            Err(reason) => imported.refused.push(RefusedSchedule { name: name.to_owned(), reason }),
        }
    }
    Ok(imported)
}

fn one(name: &str, entry: &Value, zone: Option<&str>) -> Result<Schedule, String> {
    if let Some(wrong) = entry.get("wrong").and_then(Value::as_str) {
        return Err(format!("its arguments or options cannot be sent as JSON: {wrong}"));
    }
    let said = entry.get("schedule").ok_or("it has no schedule")?;
    let text = |value: &Value, member: &str| value.get(member).and_then(Value::as_str).map(str::to_owned);
    if let Some(solar) = text(said, "solar") {
        return Err(format!("it follows the sun ({solar}), which no schedule does here; leave it to celery beat, or name an hour"));
    }
    if let Some(other) = text(said, "other") {
        return Err(format!("{other} is a class of its own; leave it to celery beat, or write it as cron or an interval"));
    }
    if let Some(clock) = text(said, "clock") {
        return Err(format!(
            "it is read by a clock of its own (nowfun: {clock}), in whose zone only Celery knows; leave it to celery beat, or write it without nowfun, with its zone"
        ));
    }
    let timing = match (said.as_f64().or_else(|| said.get("every").and_then(Value::as_f64)), said.get("crontab")) {
        (Some(seconds), _) => Timing::every(Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is no interval"))?)?,
        (None, Some(crontab)) => {
            let names = ["minute", "hour", "day_of_month", "month_of_year", "day_of_week"];
            let fields: Vec<String> = names
                .iter()
                .enumerate()
                .map(|(place, name)| field(place, crontab.get(name).unwrap_or(&Value::Null)))
                .collect::<Result<_, _>>()?;
            // Celery asks for both days. Where one is any day, that is no difference.
            let both_days = fields[2] != "*" && fields[4] != "*";
            let own_zone = text(said, "zone");
            let zone = own_zone.as_deref().or(zone);
            if zone.is_some_and(|zone| zone.starts_with("<LocalTimezone")) {
                return Err(LOCAL.to_owned());
            }
            Timing::cron(&fields.join(" "), zone, both_days)?
        }
        (None, None) => return Err("its schedule is neither a crontab nor an interval".to_owned()),
    };
    let member = |name: &str| entry.get(name).cloned().filter(|value| !value.is_null());
    let mut call = WireSignature::new(text(entry, "task").unwrap_or_default());
    match member("args") {
        Some(Value::List(args)) => call.args = args,
        Some(other) => return Err(format!("its args are {}, not a list", other.kind())),
        None => {}
    }
    for (name, into) in [("kwargs", &mut call.kwargs), ("options", &mut call.options)] {
        match member(name) {
            Some(Value::Map(map)) => *into = map,
            Some(other) => return Err(format!("its {name} are {}, not an object", other.kind())),
            None => {}
        }
    }
    if call.task.is_empty() {
        return Err("it names no task".to_owned());
    }
    let schedule = Schedule::new(name, longshore_worker::Signature::<Value>::from(call), timing).map_err(|error| error.to_string())?;
    Ok(schedule.origin(ScheduleOrigin::Command))
}

/// Returns a field of a crontab, in its place, as cron writes it: as it was said, where that means
/// the same to cron, else its values.
fn field(place: usize, field: &Value) -> Result<String, String> {
    // `{"minute": "*/5"}` is read, too.
    let said = field.as_str().or_else(|| field.get("said").and_then(Value::as_str));
    let digits = |text: &str| !text.is_empty() && text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| if digits(text) { text.parse::<u8>().ok() } else { None };
    // A range that wraps around its end, or a name, is written out.
    let is_plain = |item: &str| {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let rises =
            range.split_once('-').is_some_and(|(from, to)| matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to));
        // `5/2` is 5 alone for Celery.
        let is_range = range == "*" || rises || (digits(range) && step.is_none());
        is_range && step.is_none_or(|step| number(step).is_some_and(|step| step > 0))
    };
    // Celery takes steps that are longer than their field: `*/60` of minutes.
    let is_read = |said: &str| {
        let mut fields = ["*"; 5];
        fields[place] = said;
        Timing::cron(&fields.join(" "), None, false).is_ok()
    };
    let plain = said.map(|said| said.replace(' ', "")).filter(|said| said.split(',').all(is_plain));
    if let Some(plain) = plain.as_ref().filter(|plain| is_read(plain)) {
        return Ok(plain.clone());
    }
    let values = field.get("values").and_then(Value::as_list).unwrap_or_default();
    let values: Vec<String> = values.iter().filter_map(Value::as_i64).map(|value| value.to_string()).collect();
    match (values.is_empty(), said) {
        (false, _) => Ok(values.join(",")),
        (true, Some(said)) => Err(format!("a field of its crontab is {said:?}, without its values")),
        (true, None) => Err("a field of its crontab is missing".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &str) -> ImportedSchedules {
        import(format!("{{\"timezone\": \"Europe/Berlin\", \"beat_schedule\": {{{entries}}}}}").as_bytes()).unwrap()
    }

    #[test]
    fn crontabs_and_intervals_keep_their_meaning() {
        let crontab = |minute: &str, hour: &str, day: &str, weekday: &str| {
            format!(
                "\"x\": {{\"task\": \"t\", \"schedule\": {{\"crontab\": {{\"minute\": {minute}, \"hour\": {hour}, \"day_of_month\": {day}, \
                 \"month_of_year\": \"*\", \"day_of_week\": {weekday}}}}}, \"args\": [1], \"kwargs\": {{\"a\": 2}}, \"options\": {{\"queue\": \"q\"}}}}"
            )
        };
        let any = "\"*\"";
        for (entry, timing) in [
            (crontab("\"*/15\"", any, any, any), "*/15 * * * * Europe/Berlin"),
            (crontab("\"0\"", "\"3, 15\"", any, any), "0 3,15 * * * Europe/Berlin"),
            (crontab("\"0\"", "{\"said\": \"22-2\", \"values\": [0, 1, 2, 22, 23]}", any, any), "0 0,1,2,22,23 * * * Europe/Berlin"),
            (crontab("\"0\"", "\"9\"", any, "{\"said\": \"mon-fri\", \"values\": [1, 2, 3, 4, 5]}"), "0 9 * * 1,2,3,4,5 Europe/Berlin"),
            (crontab("\"0\"", "\"9\"", "\"13\"", "\"5\""), "0 9 13 * 5 Europe/Berlin, both days"),
            (crontab("{\"said\": null, \"values\": [5, 6]}", any, any, any), "5,6 * * * * Europe/Berlin"),
            (crontab("{\"said\": \"5/2\", \"values\": [5]}", any, any, any), "5 * * * * Europe/Berlin"),
            (crontab("{\"said\": \"*/60\", \"values\": [0]}", any, any, any), "0 * * * * Europe/Berlin"),
            (crontab("\"0\"", "{\"said\": \"*/24\", \"values\": [0]}", any, any), "0 0 * * * Europe/Berlin"),
            (crontab("\"*/59\"", "\"1-3/2\"", any, any), "*/59 1-3/2 * * * Europe/Berlin"),
            ("\"x\": {\"task\": \"t\", \"schedule\": 30, \"args\": [1]}".to_owned(), "every 30s"),
            ("\"x\": {\"task\": \"t\", \"schedule\": {\"every\": 0.5}, \"args\": [1]}".to_owned(), "every 0.5s"),
        ] {
            let imported = read(&entry);
            assert_eq!(imported.refused, [], "{entry}");
            assert_eq!(imported.schedules[0].spec.timing.to_string(), timing);
            assert_eq!(imported.schedules[0].call.args, [1.into()]);
        }
    }

    #[test]
    fn what_has_no_meaning_here_is_refused_by_name_and_the_others_are_read() {
        for (entry, words) in [
            ("\"task\": \"t\", \"schedule\": {\"solar\": \"sunset at 52.5, 13.4\"}", "follows the sun (sunset at 52.5"),
            ("\"task\": \"t\", \"schedule\": {\"other\": \"<Moon>\"}", "<Moon> is a class of its own"),
            ("\"task\": \"t\", \"schedule\": {\"clock\": \"tokyo_now\"}", "a clock of its own (nowfun: tokyo_now)"),
            ("\"task\": \"t\", \"schedule\": {\"crontab\": {\"minute\": \"*/60\"}}", "without its values"),
            ("\"task\": \"t\", \"schedule\": {\"every\": 0.01}", "the shortest is 100 ms"),
            ("\"task\": \"t\", \"schedule\": 1, \"wrong\": \"<Queue> cannot\"", "<Queue> cannot"),
            ("\"task\": \"t\", \"schedule\": {\"crontab\": {\"minute\": \"*\"}}", "missing"),
            ("\"task\": \"t\", \"schedule\": 1, \"args\": 3", "not a list"),
            ("\"schedule\": 1", "names no task"),
            ("\"task\": \"t\"", "no schedule"),
        ] {
            let imported = read(&format!("\"good\": {{\"task\": \"t\", \"schedule\": 1}}, \"bad\": {{{entry}}}"));
            assert_eq!((imported.schedules.len(), imported.refused.len()), (1, 1), "{entry}");
            assert_eq!(imported.refused[0].name, "bad");
            assert!(imported.refused[0].reason.contains(words), "{}", imported.refused[0].reason);
        }
        assert!(import(b"[]").unwrap_err().contains("beat_schedule"));
    }

    #[test]
    fn an_application_that_goes_by_the_clock_of_its_machine_is_told_to_name_its_zone_and_its_intervals_are_read() {
        let fields = ["minute", "hour", "day_of_month", "month_of_year", "day_of_week"].map(|name| format!("\"{name}\": \"*\"")).join(", ");
        let entries = format!(
            "\"a\": {{\"task\": \"t\", \"schedule\": 30}}, \"b\": {{\"task\": \"t\", \"schedule\": {{\"crontab\": {{{fields}}}, \
             \"zone\": \"<LocalTimezone: UTC+01>\"}}}}"
        );
        let imported =
            import(format!("{{\"timezone\": \"<LocalTimezone: UTC+01>\", \"beat_schedule\": {{{entries}}}}}").as_bytes()).unwrap();
        assert_eq!((imported.schedules.len(), imported.refused.len()), (1, 1));
        assert!(imported.refused[0].reason.contains("enable_utc=False and names no timezone"), "{}", imported.refused[0].reason);
    }
}
