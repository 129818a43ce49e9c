//! Our list of words. They are matched whole and by their stem, so that "resizing" is "resize" and
//! "rapid" is no "api".

use serde::Serialize;

/// Weight of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It says what the work is.
    Clear,
    /// It goes with both kinds of work ("process", "generate", "file"), and counts only where the
    /// clear ones leave the matter open.
    Weak,
}

/// A word of the text that is in our list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Text of it, in lower case.
    pub word: String,
    /// True where it speaks of computing; else it speaks of waiting.
    pub computes: bool,
    /// Its weight.
    pub weight: Weight,
    /// True where one of the lesson's lists has it, as a whole word.
    pub lesson: bool,
}

const COMPUTE: &[&str] = &[
    // Numbers.
    "calculate",
    "compute",
    "calculation",
    "computation",
    "prime",
    "factorize",
    "factorial",
    "fibonacci",
    "matrix",
    "simulate",
    "simulation",
    "optimize",
    "solve",
    "sum",
    "sort",
    "statistics",
    "regression",
    "crunch",
    "integrate",
    "monte",
    // Models and text.
    "analyze",
    "analyse",
    "analysis",
    "learning",
    "train",
    "inference",
    "classify",
    "predict",
    "embed",
    "cluster",
    "tokenize",
    "parse",
    "csv",
    "index",
    "score",
    "rank",
    "diff",
    "search",
    // Pictures, sound and film.
    "resize",
    "image",
    "picture",
    "photo",
    "thumbnail",
    "scale",
    "rotate",
    "blur",
    "filter",
    "render",
    "rasterize",
    "video",
    "audio",
    "transcode",
    "encode",
    "decode",
    "convolve",
    "trace",
    "ocr",
    // Bytes.
    "compress",
    "decompress",
    "zip",
    "unzip",
    "gzip",
    "encrypt",
    "decrypt",
    "hash",
    "checksum",
    "transform",
    "compile",
    "minify",
];

const WAIT: &[&str] = &[
    // The network.
    "download",
    "upload",
    "request",
    "network",
    "api",
    "web",
    "website",
    "site",
    "url",
    "http",
    "fetch",
    "scrape",
    "crawl",
    "page",
    "email",
    "mail",
    "send",
    "receive",
    "post",
    "poll",
    "ping",
    "socket",
    "server",
    "client",
    "rpc",
    "rest",
    "graphql",
    "webhook",
    "ftp",
    "ssh",
    "dns",
    "remote",
    "service",
    "health",
    "notify",
    "notification",
    "sms",
    "slack",
    "stock",
    "lookup",
    // Stores.
    "database",
    "db",
    "sql",
    "query",
    "postgres",
    "mysql",
    "sqlite",
    "redis",
    "mongodb",
    "s3",
    "bucket",
    "cache",
    // Clocks.
    "wait",
    "sleep",
];

/// Two words that mean something else than each by itself: what they speak of, or nothing.
const PHRASES: &[([&str; 2], Option<bool>)] = &[
    (["neural", "network"], Some(true)),
    (["deep", "learning"], Some(true)),
    (["web", "assembly"], Some(true)),
    (["social", "network"], None),
    (["the", "rest"], None),
    (["per", "page"], None),
    (["service", "life"], None),
];

/// Words for what answers in another language than HTTP.
const STORES: &[&str] =
    &["database", "db", "sql", "query", "postgres", "mysql", "sqlite", "redis", "mongodb", "cache", "lookup", "wait", "sleep"];

/// Words for HTTP wherever they stand.
const HTTP: &[&str] = &["web", "website", "site", "url", "http", "api", "rest", "graphql", "webhook", "page", "scrape", "crawl"];

/// Words for what speaks something else than HTTP.
const OTHER_WIRES: &[&str] = &["email", "mail", "ftp", "ssh", "dns", "ping", "socket", "sms", "rpc"];

/// Returns true where words of waiting speak of something that is asked over HTTP.
pub(super) fn speaks_http(words: &[Hit]) -> bool {
    let any = |list: &[&str]| {
        let stems: Vec<String> = list.iter().map(|word| stem(word)).collect();
        words.iter().any(|hit| !hit.computes && stems.contains(&stem(&hit.word)))
    };
    let waits = words.iter().any(|hit| !hit.computes && hit.weight == Weight::Clear);
    any(HTTP) || (waits && !any(STORES) && !any(OTHER_WIRES))
}

const WEAK_COMPUTE: &[&str] = &["process", "generate", "convert", "model", "report", "algorithm", "heavy", "intensive"];
const WEAK_WAIT: &[&str] = &["file", "read", "write", "save", "load", "copy", "disk", "log", "import", "export", "sync", "backup"];

/// The words of both of the lesson's lists.
const LESSON: &[&str] = &[
    "download",
    "upload",
    "request",
    "database",
    "file",
    "network",
    "api",
    "web",
    "calculate",
    "compute",
    "process",
    "analyze",
    "transform",
    "generate",
];

/// The words of a text that are in our list, each once, in their order.
/// ```
/// use longshore_advise::words::hits;
///
/// let found: Vec<_> = hits("Resizing 1000 images, rapidly").into_iter().map(|hit| hit.word).collect();
/// assert_eq!(found, ["resizing", "images"]);
/// ```
pub fn hits(text: &str) -> Vec<Hit> {
    let mut found: Vec<(String, Hit)> = Vec::new();
    let words: Vec<String> =
        text.split(|each: char| !each.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    let mut at = 0;
    while at < words.len() {
        let (word, computes, weight, taken) = match phrase(&words[at..]) {
            Some(None) => {
                at += 2;
                continue;
            }
            Some(Some(computes)) => (format!("{} {}", words[at], words[at + 1]), computes, Weight::Clear, 2),
            None => match known(&words[at]) {
                Some((computes, weight)) => (words[at].clone(), computes, weight, 1),
                None => {
                    at += 1;
                    continue;
                }
            },
        };
        at += taken;
        let stem = stem(&word);
        if found.iter().all(|(known, _)| *known != stem) {
            let lesson = is_in(LESSON, &stem);
            found.push((stem, Hit { word, computes, weight, lesson }));
        }
    }
    found.into_iter().map(|(_, hit)| hit).collect()
}

/// Returns what two words speak of together, where that is more than each by itself.
fn phrase(words: &[String]) -> Option<Option<bool>> {
    let [first, second, ..] = words else { return None };
    let of =
        |([one, other], speaks): &([&str; 2], Option<bool>)| (stem(one) == stem(first) && stem(other) == stem(second)).then_some(*speaks);
    PHRASES.iter().find_map(of)
}

/// Returns what a word speaks of, and how much that counts.
fn known(word: &str) -> Option<(bool, Weight)> {
    let stem = stem(word);
    match () {
        () if is_in(COMPUTE, &stem) => Some((true, Weight::Clear)),
        () if is_in(WAIT, &stem) => Some((false, Weight::Clear)),
        () if is_in(WEAK_COMPUTE, &stem) => Some((true, Weight::Weak)),
        () if is_in(WEAK_WAIT, &stem) => Some((false, Weight::Weak)),
        () => None,
    }
}

fn is_in(words: &[&str], stem: &str) -> bool {
    words.iter().any(|other| self::stem(other) == stem)
}

/// Returns what is left of an English word when its ending is taken off: plurals, `-ing`, `-ed`, a
/// final `e`. Good enough to compare words, no dictionary.
/// ```
/// use longshore_advise::words::stem;
///
/// assert_eq!(stem("resizing"), stem("Resize"));
/// assert_ne!(stem("filling"), stem("files"));
/// ```
pub fn stem(word: &str) -> String {
    let mut word = word.to_lowercase();
    let plural = |word: &str| word.len() > 3 && word.ends_with('s') && !["ss", "us", "sis"].iter().any(|end| word.ends_with(end));
    if let Some(head) = word.strip_suffix("ies").filter(|head| head.len() > 1) {
        word = format!("{head}y");
    } else if ["sses", "shes", "ches", "xes", "zzes"].iter().any(|end| word.ends_with(end)) {
        word.truncate(word.len() - 2);
    } else if plural(&word) {
        word.pop();
    }
    if let Some(head) = word.strip_suffix("ied").filter(|head| head.len() > 1) {
        word = format!("{head}y");
    }
    for ending in ["ing", "ed"] {
        // "ing" and "string" keep theirs: what is left would have no vowel.
        if let Some(head) = word.strip_suffix(ending).filter(|head| head.len() > 2 && head.contains(['a', 'e', 'i', 'o', 'u', 'y'])) {
            let bytes = head.as_bytes();
            let doubled = bytes[bytes.len() - 1] == bytes[bytes.len() - 2] && !matches!(bytes[bytes.len() - 1], b'l' | b's' | b'z');
            word = head[..head.len() - usize::from(doubled && head.is_char_boundary(head.len() - 1))].to_owned();
            break;
        }
    }
    if word.len() > 3 && word.ends_with('e') {
        word.pop();
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_word_have_one_stem_and_other_words_another() {
        for forms in [
            &["resize", "resizes", "resized", "resizing", "Resize"][..],
            &["image", "images", "imaging"],
            &["query", "queries", "querying", "queried"],
            &["process", "processes", "processing", "processed"],
            &["scrape", "scraping", "scraped"],
            &["ping", "pings"],
            &["api", "APIs"],
            &["fetch", "fetches", "fetching"],
            &["analysis"],
            &["zip", "zipped", "zipping"],
        ] {
            for form in forms {
                assert_eq!(stem(form), stem(forms[0]), "{form}");
            }
        }
        for (one, other) in
            [("filling", "file"), ("profile", "file"), ("rapid", "api"), ("cobweb", "web"), ("string", "str"), ("sing", "s")]
        {
            assert_ne!(stem(one), stem(other), "{one} {other}");
        }
        for odd in ["", "é", "éé", "ééing", "s", "es", "ing", "eed"] {
            stem(odd);
        }
    }

    #[test]
    fn two_words_can_mean_something_else_than_each_of_them() {
        for (text, want) in [
            ("Train a neural network", vec![("train", true), ("neural network", true)]),
            ("neural networks over the network", vec![("neural networks", true), ("network", false)]),
            ("resize the rest", vec![("resize", true)]),
            ("a social network", vec![]),
            ("neural", vec![]),
        ] {
            let got = hits(text);
            assert_eq!(got.iter().map(|hit| (hit.word.as_str(), hit.computes)).collect::<Vec<_>>(), want, "{text}");
        }
    }

    #[test]
    fn a_database_and_a_mail_server_speak_no_http() {
        for (text, want) in [
            ("Download 100 web pages", true),
            ("Fetch prices", true),
            ("Send a request to the API and cache it", true),
            ("Query database for user data", false),
            ("Fetch users from postgres", false),
            ("Quick database lookup", false),
            ("Send emails", false),
            ("sleep", false),
            ("Resize images", false),
        ] {
            assert_eq!(speaks_http(&hits(text)), want, "{text}");
        }
    }

    #[test]
    fn no_word_stands_on_both_sides_or_twice() {
        let mut stems: Vec<String> =
            [COMPUTE, WAIT, WEAK_COMPUTE, WEAK_WAIT].iter().flat_map(|words| words.iter().map(|word| stem(word))).collect();
        stems.sort();
        let twice: Vec<_> = stems.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        // The two spellings of one verb have one stem each.
        assert!(twice.is_empty(), "{twice:?}");
        assert!(LESSON.iter().all(|word| hits(word).len() == 1), "our list has every word of the lesson's");
    }
}
