use super::*;
use proptest::prelude::*;
use std::io::{Cursor, Write};

fn options(format: Format) -> Options {
    Options { format, ..Options::default() }
}

/// Reads a text; each record as `seq line text`, or `seq line ! message`.
fn read(options: &Options, text: impl AsRef<[u8]>) -> Vec<String> {
    let reader = Cursor::new(text.as_ref().to_vec());
    shown(Input::from_reader("in", reader, options).expect("opens"))
}

fn shown(input: Input) -> Vec<String> {
    input.map(|record| show(&record.expect("reads"))).collect()
}

fn show(record: &Record) -> String {
    let (seq, line) = (record.seq(), record.line());
    match (record.check(), record.as_row()) {
        (Err(error), _) => format!("{seq} {line} ! {}", error.message()),
        (Ok(()), Some((fields, _))) => {
            let fields: Vec<_> = fields.iter().map(String::from_utf8_lossy).collect();
            format!("{seq} {line} {:?} {}", fields, String::from_utf8_lossy(record.raw()))
        }
        (Ok(()), None) => format!("{seq} {line} {}", String::from_utf8_lossy(record.raw())),
    }
}

#[test]
fn text_is_cut_into_records_as_its_format_says() {
    use Format::*;
    let rows: &[(Format, &str, &[&str])] = &[
        (Lines, "", &[]),
        (Lines, "\n", &[]),
        (Lines, "a\nb", &["1 1 a", "2 2 b"]),
        (Lines, "a\r\n\r\n\nb\r\n", &["1 1 a", "2 4 b"]),
        (Lines, "\u{feff}a\n\u{feff}b\n", &["1 1 a", "2 2 \u{feff}b"]),
        (Lines, "  \n a \n", &["1 1   ", "2 2  a "]),
        (Lines, "a\0b\nc\rd\n", &["1 1 a\0b", "2 2 c\rd"]),
        (Lines, "{\"a\":1}\n", &["1 1 {\"a\":1}"]),
        (Auto, "{\"a\":1} \n", &["1 1 {\"a\":1}"]),
        (Auto, "\u{feff}{\"a\":1}\n", &["1 1 {\"a\":1}"]),
        (Auto, "[1]\n{\n", &["1 1 [1]", "2 2 {"]),
        (Auto, "", &[]),
        (Auto, "\u{feff}", &[]),
        (Nul, "a\nb\0\0c\r\0\u{feff}d", &["1 1 a\nb", "2 3 c\r", "3 4 \u{feff}d"]),
        (Jsonl, " 1 \r\n\n \t\n\"a\"\n", &["1 1 1", "2 4 \"a\""]),
        (Jsonl, "1\nx\n2", &["1 1 1", "2 2 ! in line 2, column 1: bad JSON: expected value", "3 3 2"]),
        (Csv, "", &[]),
        (Csv, "id,make\n", &[]),
        (Csv, "\u{feff}id,make\r\n1,VW\r\n\r\n2,\"B,\"\"W\"\r\n", &[r#"1 2 ["1", "VW"] 1,VW"#, r#"2 4 ["2", "B,\"W"] 2,"B,""W""#]),
        (
            Csv,
            "id,t\n1,\"a\n\nb\"\n2,x\n3\n4,y,z\n5,\n",
            &[
                "1 2 [\"1\", \"a\\n\\nb\"] 1,\"a\n\nb\"",
                r#"2 5 ["2", "x"] 2,x"#,
                "3 6 ! in line 6: 2 fields expected (id, t), 1 found",
                "4 7 ! in line 7: 2 fields expected (id, t), 3 found",
                r#"5 8 ["5", ""] 5,"#,
            ],
        ),
        (Csv, "id,t\n1,5\" pipe\n2,x", &[r#"1 2 ["1", "5\" pipe"] 1,5" pipe"#, r#"2 3 ["2", "x"] 2,x"#]),
        (Csv, "id,t\n1,\"open\n2,x\n", &["1 2 ! in line 2: a quote is left open until the end of the input"]),
        (Csv, "id\n\"\"\n", &["1 2 [\"\"] \"\""]),
        (Tsv, "id\tt\n1\ta,b\n", &["1 2 [\"1\", \"a,b\"] 1\ta,b"]),
    ];
    for (format, text, expected) in rows {
        assert_eq!(read(&options(*format), text), *expected, "{format:?} {text:?}");
    }
}

#[test]
fn a_table_without_a_header_has_as_many_columns_as_its_first_row() {
    let options = Options { header: false, ..options(Format::Csv) };
    let input = Input::from_reader("in", Cursor::new("1,2\n3\n"), &options).expect("opens");
    assert_eq!(input.columns().map(|columns| (columns.len(), columns.is_named())), Some((2, false)));
    assert_eq!(shown(input), [r#"1 1 ["1", "2"] 1,2"#, "2 2 ! in line 2: 2 fields expected, 1 found"]);
}

#[test]
fn a_record_over_the_limit_is_invalid_and_the_next_one_is_read() {
    let long = "x".repeat(600_000);
    let quoted = format!("a,\"{}\n{}\"", "y".repeat(8), "z".repeat(300_000));
    let rows = [
        (
            Format::Lines,
            5,
            "12345\n123456\n1\n".to_string(),
            vec!["1 1 12345", "2 2 ! in line 2: longer than 5B (6 bytes); --max-record raises the limit", "3 3 1"],
        ),
        (Format::Lines, 5, "12345\r\n12345\r".to_string(), vec!["1 1 12345", "2 2 12345"]),
        (Format::Lines, 5, "123456".to_string(), vec!["1 1 ! in line 1: longer than 5B (6 bytes); --max-record raises the limit"]),
        (
            Format::Nul,
            5,
            "12345\r\u{0}1\u{0}".to_string(),
            vec!["1 1 ! in record 1: longer than 5B (6 bytes); --max-record raises the limit", "2 2 1"],
        ),
        (
            Format::Lines,
            1024,
            format!("{long}\n1\n"),
            vec!["1 1 ! in line 1: longer than 1.0KiB (600,000 bytes); --max-record raises the limit", "2 2 1"],
        ),
        (
            Format::Csv,
            10,
            format!("a,b\n{quoted}\n1,2\n"),
            vec![
                "1 2 ! in line 2: longer than 10B (300,013 bytes), is a quote left open there?; --max-record raises the limit",
                r#"2 4 ["1", "2"] 1,2"#,
            ],
        ),
        (
            Format::Csv,
            3,
            "a,b\n1,2\r\n1,22\r\n3,4".to_string(),
            vec![
                r#"1 2 ["1", "2"] 1,2"#,
                "2 3 ! in line 3: longer than 3B (5 bytes), is a quote left open there?; --max-record raises the limit",
                r#"3 4 ["3", "4"] 3,4"#,
            ],
        ),
    ];
    for (format, max_record, text, expected) in rows {
        let options = Options { max_record, ..options(format) };
        assert_eq!(read(&options, &text), expected, "{format:?} {max_record}");
    }
}

#[test]
fn a_word_over_the_limit_is_invalid_and_the_next_one_is_read() {
    for (format, fits, long) in [(Format::Lines, "12345", "123456"), (Format::Jsonl, "12345", "{\"a\":1}")] {
        let words = [fits, long, "1"].map(OsString::from).to_vec();
        let options = Options { max_record: 5, sources: vec![Source::Words(words)], ..options(format) };
        let expected = [
            &*format!("1 1 {fits}"),
            &*format!("2 2 ! argument 2: longer than 5B ({} bytes); --max-record raises the limit", long.len()),
            "3 3 1",
        ];
        assert_eq!(shown(Input::open(&options).expect("opens")), expected, "{format:?}");
    }
}

#[test]
fn a_row_longer_than_any_buffer_is_one_row() {
    let field = "a line of a long text\n".repeat(50_000);
    let input = Input::from_reader("in", Trickle(Cursor::new(format!("id,t\n1,\"{field}\"\n2,x\n").into_bytes())), &options(Format::Csv))
        .expect("opens");
    let rows: Vec<Record> = input.map(|record| record.expect("reads")).collect();
    assert_eq!(rows.iter().map(Record::line).collect::<Vec<_>>(), [2, 50_003]);
    assert_eq!(rows[0].as_row().expect("a row").0.get(1), Some(field.as_bytes()));
    assert_eq!(rows[1].as_row().expect("a row").0.get(1), Some(&b"x"[..]));
}

#[test]
fn the_key_of_a_record_over_the_limit_is_that_of_the_whole_record() {
    let text = "x".repeat(600_000);
    let key = |max_record| {
        let options = Options { max_record, ..options(Format::Lines) };
        Input::from_reader("in", Cursor::new(text.clone()), &options).expect("opens").next().expect("one").expect("reads").key()
    };
    assert_eq!(key(100), key(MAX_RECORD));
}

#[test]
fn skipped_records_are_counted_and_not_parsed() {
    let options = Options { skip: 2, take: Some(2), ..options(Format::Jsonl) };
    assert_eq!(read(&options, "x\n\n1\n2\n3\n4\n"), ["3 4 2", "4 5 3"]);
    let options = Options { skip: 1, take: Some(1), ..self::options(Format::Csv) };
    assert_eq!(read(&options, "a\n1\n2\n3\n"), [r#"2 3 ["2"] 2"#]);
    assert_eq!(read(&Options { take: Some(0), ..self::options(Format::Lines) }, "a\n"), [""; 0]);
}

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let this = Self(tempfile::tempdir().expect("a directory"));
        for (name, text) in files {
            File::create(this.0.path().join(name)).expect("a file").write_all(text.as_bytes()).expect("written");
        }
        this
    }

    fn options(&self, names: &[&str]) -> Options {
        let sources = names.iter().map(|name| Source::of_word(self.0.path().join(name))).collect();
        Options { sources, ..Options::default() }
    }

    /// What opening and reading to the end says, without the directory.
    fn error(&self, names: &[&str]) -> String {
        let error = Input::open(&self.options(names)).and_then(|input| input.collect::<Result<Vec<_>, _>>()).expect_err("must fail");
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn several_files_are_read_one_after_the_other() {
    let files = Files::new(&[("a.txt", "1\n2"), ("b", "3\n"), ("a.csv", "id,n\n1,2\n"), ("b.CSV", "n,id\n3,4\n"), ("c.ndjson", "[1]\n")]);
    let read = |names: &[&str]| {
        let input = Input::open(&files.options(names)).expect("opens");
        input.map(|record| show(&record.expect("reads"))).collect::<Vec<_>>()
    };
    assert_eq!(read(&["a.txt", "b"]), ["1 1 1", "2 2 2", "3 1 3"]);
    assert_eq!(read(&["a.csv", "b.CSV"]), [r#"1 2 ["1", "2"] 1,2"#, r#"2 2 ["3", "4"] 3,4"#]);
    assert_eq!(read(&["c.ndjson"]), ["1 1 [1]"]);
    let names: Vec<Record> = Input::open(&files.options(&["a.csv", "b.CSV"])).expect("opens").map(Result::unwrap).collect();
    assert_eq!(names[1].to_json().get(), r#"{"n":"3","id":"4"}"#);
    assert_eq!(files.options(&["a.txt", "b"]).estimate(), Some(3));
    assert_eq!(files.options(&["a.csv", "b.CSV"]).estimate(), Some(2));
    assert_eq!(Options { skip: 1, take: Some(1), ..files.options(&["a.txt", "b"]) }.estimate(), Some(1));
    assert_eq!(Options { sources: vec![Source::Stdin], ..Options::default() }.estimate(), None);
}

#[test]
fn what_cannot_be_read_is_refused_with_its_name() {
    let files = Files::new(&[("a.csv", "id,n\n"), ("b.csv", "id,m\n"), ("c.jsonl", ""), ("d.txt", "")]);
    std::fs::create_dir(files.0.path().join("dir")).expect("a directory");
    let rows: [(&[&str], &str); 5] = [
        (&["none.txt"], "cannot open none.txt: No such file or directory (os error 2)"),
        (&["d.txt", "none.txt"], "cannot open none.txt: No such file or directory (os error 2)"),
        (&["dir"], "dir is a directory: name the files in it, as in dir/*.jsonl, or pipe a list of them in"),
        (&["a.csv", "b.csv"], "b.csv has other columns than a.csv: missing n more m; run them apart, or bring them to the same columns"),
        (&["c.jsonl", "d.txt"], "c.jsonl is jsonl and d.txt is lines: all inputs must have one format; name it with --format"),
    ];
    for (names, expected) in rows {
        assert_eq!(files.error(names), expected);
    }
    let twice = Options { sources: vec![Source::Stdin, Source::Stdin], ..Options::default() };
    assert!(Input::open(&twice).expect_err("twice").is_usage());
}

#[test]
fn words_are_records() {
    let words = |words: &[&str]| vec![Source::Words(words.iter().map(OsString::from).collect())];
    let input = Input::open(&Options { sources: words(&["a", "-rf", "b c"]), ..Options::default() }).expect("opens");
    assert_eq!(shown(input), ["1 1 a", "2 2 -rf", "3 3 b c"]);
    let input = Input::open(&Options { sources: words(&["[1]", "x"]), ..options(Format::Jsonl) }).expect("opens");
    assert_eq!(shown(input), ["1 1 [1]", "2 2 ! argument 2, column 1: bad JSON: expected value"]);
    assert!(Input::open(&Options { sources: words(&["a"]), ..options(Format::Csv) }).expect_err("no table").is_usage());
}

/// A reader that fails after its text, and gives few bytes at a time.
struct Failing(Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(3);
        match self.0.read(&mut into[..most])? {
            0 => Err(io::Error::other("the disk is gone")),
            count => Ok(count),
        }
    }
}

#[test]
fn an_error_midway_comes_after_the_records_before_it_and_ends_the_input() {
    let mut input = Input::from_reader("in", Failing(Cursor::new(b"one\ntwo\nthr".to_vec())), &options(Format::Lines)).expect("opens");
    assert_eq!(input.by_ref().take(2).filter(Result::is_ok).count(), 2);
    assert_eq!(input.next().expect("an error").expect_err("an error").to_string(), "cannot read in after line 2: the disk is gone");
    assert!(input.next().is_none());
}

proptest! {
    #[test]
    fn rows_are_what_the_csv_crate_reads_in_one_go(text in "[ab,\"\n]{0,40}", max in prop_oneof![Just(MAX_RECORD), 3..10_usize]) {
        let options = Options { header: false, max_record: max, ..options(Format::Csv) };
        let Ok(input) = Input::from_reader("in", Trickle(Cursor::new(text.clone().into_bytes())), &options) else { return Ok(()) };
        let ours: Vec<Record> = input.map(|record| record.expect("reads")).collect();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        let theirs: Vec<csv::ByteRecord> = reader.byte_records().map(|row| row.expect("reads")).collect();
        let mut ours = ours.iter();
        for row in &theirs {
            // The first row may be refused as the header is, and a last one with an open quote is
            // invalid here; all between must agree.
            let Some(record) = ours.next() else { prop_assert!(false, "a row is missing: {row:?}"); break };
            if let Some((fields, _)) = record.as_row() {
                prop_assert_eq!(fields, row);
            }
        }
        prop_assert!(ours.next().is_none());
    }

    #[test]
    fn lines_are_what_splitting_the_whole_text_gives(text in "[ab\r\n]{0,60}") {
        let expected: Vec<String> = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_string()).filter(|line| !line.is_empty()).collect();
        let input = Input::from_reader("in", Trickle(Cursor::new(text.into_bytes())), &options(Format::Lines)).expect("opens");
        let ours: Vec<String> = input.map(|record| String::from_utf8(record.expect("reads").raw().to_vec()).expect("text")).collect();
        prop_assert_eq!(ours, expected);
    }
}

/// Gives few bytes at a time.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(3);
        self.0.read(&mut into[..most])
    }
}
