use super::*;
use crate::record::{
    Record,
    testing::{json, line, row},
};
use proptest::prelude::*;
use std::{
    os::unix::ffi::{OsStrExt, OsStringExt},
    process::Command,
};

fn table(names: &[&str]) -> Shape {
    Shape::table(Some(Arc::new(Columns::named(names.iter().copied()))))
}

fn car() -> Record {
    row(&["id", "make", "price", "a b"], &[b"007", b"VW", b"1.50", b"x"])
}

fn cars() -> Shape {
    table(&["id", "make", "price", "a b"])
}

const VARS: Vars<'_> = Vars { slot: 3, attempt: 2, extra: &[("host", "h.example")] };

/// The template filled in, or the message of what failed.
fn fill(template: &str, shape: &Shape, record: &Record) -> String {
    match Template::parse(template, shape) {
        Err(error) => format!("refused: {error}"),
        Ok(template) => match template.render_bytes(record, &VARS) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                assert_eq!(error.kind(), "invalid");
                format!("failed: {}", error.message())
            }
        },
    }
}

#[test]
fn placeholders_in_plain_records() {
    let rows = [
        ("{}", "dir/a b.tar.gz"),
        ("{/}", "a b.tar.gz"),
        ("{//}", "dir"),
        ("{.}_small.png", "dir/a b.tar_small.png"),
        ("{/.}", "a b.tar"),
        ("{#}:{%}", "7:3"),
        ("{}{}", "dir/a b.tar.gzdir/a b.tar.gz"),
        ("{{ record|upper }}", "DIR/A B.TAR.GZ"),
        ("{{ seq + 1 }}/{{ slot }}/{{attempt}}", "8/3/2"),
        ("{print $1}", "{print $1}"),
        ("{ }{a,b}{1..3}${x y}{", "{ }{a,b}{1..3}${x y}{"),
        ("}{}}", "}dir/a b.tar.gz}"),
        ("{{ '{id}' }}", "{id}"),
        ("{{ '}}' }}", "}}"),
        ("{{ \"it's {}\" }}", "it's {}"),
        ("{{ {'a': {'b': 1}}['a']['b'] }}", "1"),
        ("{{ [1, 'x', none] }}", r#"[1,"x",null]"#),
        ("{{ true }}", "true"),
        ("", ""),
        ("é{}é", "édir/a b.tar.gzé"),
    ];
    for (template, expected) in rows {
        assert_eq!(fill(template, &Shape::lines(), &line("dir/a b.tar.gz")), expected, "{template}");
    }
}

#[test]
fn placeholders_in_rows() {
    let rows = [
        ("{}", "007,VW,1.50,x"),
        ("{1}-{make}-{price}", "007-VW-1.50"),
        ("{{ price }}", "1.50"),
        ("{{ price * 2 }}", "3.0"),
        ("{{ record.price }}", "1.50"),
        ("{{ record['a b'] }}", "x"),
        ("{{ id }}{{ make|lower }}", "007vw"),
        ("{4}", "x"),
    ];
    for (template, expected) in rows {
        assert_eq!(fill(template, &cars(), &car()), expected, "{template}");
    }
}

#[test]
fn placeholders_in_json_records() {
    let record = json(
        r#"{"id": 12345678901234567890123, "p": 1.50, "s": "a\"b\n", "args": ["x", {"y": true}], "n": null, "o": {"b": [1, 2]}, "user-id": 5}"#,
    );
    let rows = [
        ("{id}/{p}", "12345678901234567890123/1.50"),
        ("{s}", "a\"b\n"),
        ("{args.0}{args.1.y}", "xtrue"),
        ("{o}", r#"{"b": [1, 2]}"#),
        ("{o.b}", "[1, 2]"),
        ("{user-id}", "5"),
        ("{{ p }}", "1.50"),
        ("{{ o.b|sum }}", "3"),
        ("{{ args|length }}", "2"),
        ("{{ o }}", r#"{"b": [1, 2]}"#),
        ("{{ [o, 'x'] }}", r#"[{"b":[1,2]},"x"]"#),
        ("{{ record.o.b[1] }}", "2"),
        ("{{ n or 'nothing' }}", "nothing"),
        ("{{ missing|default('-') }}", "-"),
        ("{{ missing is defined }}", "false"),
        ("{host}", "h.example"),
        ("{missing}", "failed: in.txt line 7: no field `missing`"),
        ("{id.x}", "failed: in.txt line 7: no field `id.x`"),
        ("{{ missing + 1 }}", "failed: in.txt line 7: no field `missing` for `missing + 1`"),
        ("{{ missing == 1 }}", "failed: in.txt line 7: no field `missing` for `missing == 1`"),
        ("{{ o.x.y }}", "failed: in.txt line 7: no field `o.x.y`"),
        ("{n}", "failed: in.txt line 7: `n` is null: to put something in its place write {{ n or 'something' }}"),
        ("{{ 1 / 0 }}", "failed: in.txt line 7: `1 / 0`: unable to calculate 1 / 0"),
        ("{/}", "failed: in.txt line 7: `{/}` stands for a part of a file name, but the record is not a plain text"),
    ];
    for (template, expected) in rows {
        assert_eq!(fill(template, &Shape::json(), &record), expected, "{template}");
    }
    assert_eq!(fill("{1}{2.a}", &Shape::json(), &json(r#"["x", {"a": "y"}]"#)), "xy");
    assert_eq!(fill("{} {/}", &Shape::json(), &json(r#""dir\/x""#)), "dir/x x");
    assert_eq!(fill("{}", &Shape::json(), &json("null")), "failed: in.txt line 7: `{}` is null");
    assert_eq!(fill("constant", &Shape::json(), &json("{")), "failed: in.txt line 7, column 1: bad JSON: EOF while parsing an object");
    assert_eq!(fill("{host}", &Shape::json(), &json(r#"{"host":"own"}"#)), "own", "the record's own field goes first");
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let no_fields = "the records are plain lines, which have no fields: `{}` is the line; for fields use --format csv, tsv or jsonl";
    let all = "The columns are id, make, price, a b";
    let unnamed = Shape::table(Some(Arc::new(Columns::unnamed(3))));
    let twice = table(&["x", "x"]);
    let rows = [
        ("{id}", Shape::lines(), format!("`{{id}}`: {no_fields} (to write the braces themselves: {{{{ '{{id}}' }}}})")),
        ("{1}", Shape::lines(), format!("`{{1}}`: {no_fields} (to write the braces themselves: {{{{ '{{1}}' }}}})")),
        ("{{ id + 1 }}", Shape::lines(), format!("`{{{{ id + 1 }}}}`: {no_fields}")),
        ("{prise}", cars(), format!("`{{prise}}`: no column `prise`, did you mean `price`? {all}")),
        ("{colour}", cars(), "`{colour}`: no column `colour`; the columns are id, make, price, a b".into()),
        ("{{ prise * 2 }}", cars(), "`{{ prise * 2 }}`: no column `prise`, did you mean `price`?".into()),
        ("{5}", cars(), "`{5}`: there are 4 columns".into()),
        ("{0}", cars(), "`{0}`: columns are counted from 1".into()),
        ("{0}", Shape::json(), "`{0}`: columns are counted from 1".into()),
        ("{/}", cars(), "`{/}` stands for a part of a file name, but the records are rows".into()),
        ("{id}", unnamed, "`{id}`: the table has no header: columns are {1} to {3}".into()),
        ("{x}", twice, "`{x}`: two columns are named `x`: take one by its number".into()),
        ("a {{ b", Shape::lines(), "`{{ b` has no `}}`".into()),
        ("{{ }}", Shape::lines(), "`{{ }}` is empty".into()),
        ("{{.Names}}", Shape::lines(), "`.Names` is no expression".into()),
        ("{{ a b }}", Shape::json(), "`a b` is no expression".into()),
        ("{{ record|nofilter }}", Shape::lines(), "`record|nofilter` cannot work: ".into()),
        ("{{ nofunction(1) }}", Shape::json(), "`nofunction(1)` cannot work: ".into()),
        ("{{ record is notest }}", Shape::json(), "`record is notest` cannot work: ".into()),
    ];
    for (template, shape, expected) in rows {
        let error = Template::parse(template, &shape).expect_err(template);
        assert!(error.to_string().starts_with(&expected), "{template}: {error}");
    }
    assert!(Template::parse("{host}{{ host }}", &Shape::lines().with_extra(&["host"])).is_ok());
    assert!(Template::parse("{anything}", &Shape::table(None)).is_ok());
    assert!(Template::parse("{{ range(3)|list }}", &cars()).is_ok());
}

#[test]
fn the_hint_for_braces_works() {
    let refused = fill("{id}", &Shape::lines(), &line("x"));
    let hint = &refused[refused.find("{{").unwrap()..refused.rfind("}}").unwrap() + 2];
    assert_eq!(fill(hint, &Shape::lines(), &line("x")), "{id}");
    let refused = fill("{{.Names}}", &Shape::lines(), &line("x"));
    let hint = &refused[refused.find("{{").unwrap()..refused.rfind(")").unwrap()];
    assert_eq!(fill(hint, &Shape::lines(), &line("x")), "{{.Names}}");
}

#[test]
fn arguments_and_texts_refuse_what_they_cannot_hold() {
    let template = Template::parse("x{}", &Shape::lines()).unwrap();
    assert_eq!(template.render_arg(&line(b"\xff"), &VARS).unwrap().as_bytes(), b"x\xff");
    assert!(template.render_arg(&line(b"a\0b"), &VARS).unwrap_err().message().contains("NUL"));
    assert!(template.render_shell(&line(b"a\0b"), &VARS).unwrap_err().message().contains("NUL"));
    assert_eq!(template.render_bytes(&line(b"a\0b"), &VARS).unwrap(), b"xa\0b");
    let error = template.render_str(&line(b"a\xff"), &VARS).unwrap_err();
    assert_eq!(error.message(), "in.txt line 7: `x{}` is not UTF-8 at byte 3 when filled in");
    let parts = Template::parse("{.}|{/}", &Shape::lines()).unwrap();
    assert_eq!(parts.render_bytes(&line(b"d/\xfe\xff.p"), &VARS).unwrap(), b"d/\xfe\xff|\xfe\xff.p");
}

#[test]
fn a_value_cannot_break_a_url() {
    let rows = [
        ("{u}", r#"{"u":"http://h/a b?c=d#e"}"#, "http://h/a b?c=d#e"),
        ("{u}/x/{v}", r#"{"u":"http://h:8","v":"a/b"}"#, "http://h:8/x/a%2Fb"),
        ("http://h/x/{v}", r#"{"v":"a/b?c#d%20é&~"}"#, "http://h/x/a%2Fb%3Fc%23d%2520%C3%A9%26~"),
        ("http://h/x?q={v}&r={w}", r#"{"v":"a&r=1 +","w":2}"#, "http://h/x?q=a%26r%3D1%20%2B&r=2"),
        ("http://h/x?q={v}", r#"{"v":".."}"#, "http://h/x?q=.."),
        ("http://{v}:80/x", r#"{"v":"127.0.0.1"}"#, "http://127.0.0.1:80/x"),
        ("http://{v}/x", r#"{"v":"[::1]:80"}"#, "http://[::1]:80/x"),
        ("http://{v}/x", r#"{"v":"evil.example/"}"#, "failed: in.txt line 7: `{v}` is \"evil.example/\", which is no host"),
        ("http://{v}/x", r#"{"v":"a@evil.example"}"#, "failed: in.txt line 7: `{v}` is \"a@evil.example\", which is no host"),
        ("http://good.example{v}", r#"{"v":"@evil.example"}"#, "failed: in.txt line 7"),
        ("http://h/x/{v}/y", r#"{"v":".."}"#, "failed: in.txt line 7: `{v}` is \"..\", which would lead to another path"),
        ("http://h/x{v}", r#"{"v":".."}"#, "http://h/x.."),
        ("http://h/{{ v|safe }}", r#"{"v":"a/b?c"}"#, "http://h/a/b?c"),
        ("http://h/?q={{ v|urlencode }}", r#"{"v":"a b"}"#, "http://h/?q=a%20b"),
        ("/x?u={u}", r#"{"u":"http://h/"}"#, "/x?u=http%3A%2F%2Fh%2F"),
    ];
    for (template, record, expected) in rows {
        let parsed = Template::parse(template, &Shape::json()).unwrap();
        let found = parsed.render_url(&json(record), &VARS).unwrap_or_else(|error| format!("failed: {}", error.message()));
        assert!(found == expected || expected.starts_with("failed") && found.starts_with(expected), "{template}: {found}");
    }
    for (template, record, expected) in [
        ("http://h/{}", "img/a b/7.png", "http://h/img/a%20b/7.png"),
        ("http://h/x{}", "/a?b#c", "http://h/x/a%3Fb%23c"),
        ("http://h/?q={}", "a/b", "http://h/?q=a%2Fb"),
        ("http://h/{/}", "a/b c", "http://h/b%20c"),
        ("http://h/{}", "a/../b", "failed: in.txt line 7: `{}` is \"a/../b\", which would lead to another path"),
        ("http://h/{}", "../b", "failed: in.txt line 7: `{}` is \"../b\", which would lead to another path"),
        ("http://h/a{}", "..", "http://h/a.."),
    ] {
        let parsed = Template::parse(template, &Shape::lines()).unwrap();
        let found = parsed.render_url(&line(record), &VARS).unwrap_or_else(|error| format!("failed: {}", error.message()));
        assert_eq!(found, expected, "{template}");
    }
    let template = Template::parse("http://h/{}", &Shape::lines()).unwrap();
    assert!(template.render_url(&line(b"\xff"), &VARS).unwrap_err().message().contains("not UTF-8"));
}

#[test]
fn values_in_a_json_text_are_json() {
    let record = r#"{"s":"a\"b\\","n":1.50,"z":null,"l":[1, 2]}"#;
    let rows = [
        (r#"{"s": {s}, "n": {n}, "z": {z}, "l": {l}}"#, r#"{"s": "a\"b\\", "n": 1.50, "z": null, "l": [1, 2]}"#),
        (r#"{"t": "x-{s}-{n}\"{n}"}"#, r#"{"t": "x-a\"b\\-1.50\"1.50"}"#),
        (r#"{{ {"a": n + 1} }}"#, r#"{"a":2.5}"#),
        (r#"[{#}, {{ s|length }}, {}]"#, r#"[7, 4, {"s":"a\"b\\","n":1.50,"z":null,"l":[1, 2]}]"#),
    ];
    for (template, expected) in rows {
        assert_eq!(Template::parse(template, &Shape::json()).unwrap().render_json(&json(record), &VARS).unwrap(), expected);
    }
    let template = Template::parse(r#"{"id": {id}, "m": "{make}"}"#, &cars()).unwrap();
    assert_eq!(template.render_json(&car(), &VARS).unwrap(), r#"{"id": "007", "m": "VW"}"#);
}

#[test]
fn expressions_are_paths_or_templates() {
    let text = |text: &str, shape: &Shape, record: &Record| match Expr::parse(text, shape) {
        Err(error) => format!("refused: {error}"),
        Ok(expr) => expr.eval_text(record, &VARS).unwrap_or_else(|error| format!("failed: {}", error.message())),
    };
    let object = json(r#"{"user":"ann","id":5,"a":{"b":true}}"#);
    let rows =
        [("user", "ann"), (" a.b ", "true"), ("{user}-{id}", "ann-5"), ("{{ user|upper }}", "ANN"), ("host", "h.example"), ("a b", "a b")];
    for (expr, expected) in rows {
        assert_eq!(text(expr, &Shape::json(), &object), expected, "{expr}");
    }
    assert_eq!(text("2", &cars(), &car()), "VW");
    assert_eq!(text("mak", &cars(), &car()), "refused: `mak`: no column `mak`, did you mean `make`? The columns are id, make, price, a b");
    assert_eq!(text("user", &Shape::json(), &json("{}")), "failed: in.txt line 7: no field `user`");
    assert_eq!(text("record", &Shape::lines(), &line("x")), "x");
    assert_eq!(text("seq", &Shape::lines(), &line("x")), "7");
    assert!(text("user", &Shape::lines(), &line("x")).starts_with("refused: `user`: the records are plain lines"));
    assert!(text("", &Shape::lines(), &line("x")).starts_with("refused: the expression is empty"));
    assert!(Expr::parse("a b", &Shape::json()).unwrap().is_constant());
    assert!(!Expr::parse("user", &Shape::json()).unwrap().is_constant());
    assert_eq!(Expr::parse("{}", &Shape::lines()).unwrap().eval_bytes(&line(b"\xff"), &VARS).unwrap(), b"\xff");
}

#[test]
fn conditions_are_true_or_false_or_the_record_fails() {
    let holds = |text: &str, shape: &Shape, record: &Record| match Condition::parse(text, shape) {
        Err(error) => format!("refused: {error}"),
        Ok(condition) => {
            condition.holds(record, &VARS).map_or_else(|error| format!("failed: {}", error.message()), |truth| truth.to_string())
        }
    };
    let rows = [
        ("price > 1.4 and make == \"VW\"", "true"),
        ("price > 10 and make == 'VW'", "false"),
        ("{{ price < 10 }}", "true"),
        ("id == '007'", "true"),
        ("make in ['VW', 'BMW']", "true"),
        ("make is startingwith('V') and not seq is odd", "false"),
        ("id > 5", "failed: in.txt line 7: `id` is \"007\", not a number, in `id > 5`"),
        ("id|int > 5", "true"),
        ("make", "failed: in.txt line 7: `make` gives a string, not true or false: compare it with something"),
        (
            "price == '1.50'",
            "refused: `price == '1.50'`: a column that holds numbers is compared as a number: write price == 1.50, or record.price for its text",
        ),
        ("record.price == '1.50'", "true"),
        ("{price} > 10", "refused: `{price} > 10`: in a condition a field stands without braces: write price"),
        ("prise > 10", "refused: `prise > 10`: no column `prise`, did you mean `price`? The columns are id, make, price, a b"),
        ("price >", "refused: `price >` is no expression: unexpected end of input, expected expression"),
        ("", "refused: the condition is empty: write one as in price > 10"),
    ];
    for (text, expected) in rows {
        assert_eq!(holds(text, &cars(), &car()), expected, "{text}");
    }
    let rows = [
        (r#"{"p":11,"d":null}"#, "p > 10", "true"),
        (r#"{"p":"11"}"#, "p > 10", "failed: in.txt line 7: `p` is \"11\", not a number, in `p > 10`"),
        (r#"{"p":null}"#, "p is not none and p > 10", "false"),
        (r#"{}"#, "p > 10", "failed: in.txt line 7: no field `p` for `p > 10`"),
        (r#"{}"#, "p is defined and p > 10", "false"),
        (r#"{"d":null}"#, "d", "false"),
        (r#"{"d":true}"#, "d", "true"),
        (r#"{}"#, "d", "failed: in.txt line 7: `d` is not defined"),
        ("[", "1 == 1", "failed: in.txt line 7, column 1: bad JSON: EOF while parsing a list"),
    ];
    for (record, text, expected) in rows {
        assert_eq!(holds(text, &Shape::json(), &json(record)), expected, "{text} of {record}");
    }
    assert_eq!(holds("record|length > 3", &Shape::lines(), &line("four")), "true");
    assert_eq!(holds("'x' in record", &Shape::lines(), &line("four")), "false");
}

#[test]
fn the_hash_of_templates_is_of_each_text_in_order() {
    let hash = |texts: &[&str]| hash_sources(texts);
    assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    assert_ne!(hash(&["a", "b"]), hash(&["b", "a"]));
    assert_ne!(hash(&["ab"]), hash(&["a", "b"]));
    assert_ne!(hash(&["a"]), hash(&["a", ""]));
    // A journal outlives the program that wrote it: this value must never change.
    assert_eq!(hash(&["GET http://h/{id}"]), 245_818_896_730_318_392_098_675_740_627_953_735_512);
}

#[test]
fn what_depends_on_the_attempt_says_so() {
    for (text, expected) in [("{#}", false), ("{}", false), ("{%}", true), ("{{ attempt + 1 }}", true), ("{{ seq }}", false)] {
        assert_eq!(Template::parse(text, &Shape::lines()).unwrap().varies_by_attempt(), expected, "{text}");
    }
}

#[test]
fn what_is_shared_between_threads_may_be() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Template>();
    shared::<Expr>();
    shared::<Condition>();
    shared::<Record>();
    sent::<crate::input::Input>();
}

/// Values that have broken programs before, and random ones.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&[u8]> = vec![
        b"-rf",
        b"--help",
        b"$(touch /tmp/x)",
        b"`id`",
        b"${IFS}",
        b"'",
        b"''",
        b"'\\''",
        b"\"",
        b"\\",
        b"\\'",
        b"a;b",
        b"a&&b",
        b"|",
        b">x",
        b"*",
        b"~",
        b"!x",
        b"#x",
        b"a\nb",
        b"\n",
        b" ",
        b"",
        b"\t",
        b"\r\n",
        b"%s%n",
        b"{}",
        b"{1}",
        b"{{ 1 }}",
        b"}}",
        b"\xff\xfe",
        b"\xc3\x28",
        b"\x1b[31m",
        b"=x",
        b"a=b",
        "é\u{202e}\u{feff}🦀".as_bytes(),
        b"$'\\n'",
        b"\\\n",
        b"..",
        b"/",
        b"-",
    ];
    let piece = prop_oneof![
        3 => proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(1..=255_u8, 0..20),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_value_arrives_byte_for_byte(value in hostile()) {
        let shape = table(&["v", "w"]);
        let record = row(&["v", "w"], &[&value, b"w"]);
        for (template, shape, record) in [("{}", &Shape::lines(), &line(&value)), ("{v}", &shape, &record), ("{1}", &shape, &record)] {
            let template = Template::parse(template, shape).unwrap();
            prop_assert_eq!(&template.render_bytes(record, &VARS).unwrap(), &value);
            prop_assert_eq!(template.render_arg(record, &VARS).unwrap().into_vec(), value.clone());
        }
    }

    #[test]
    fn a_value_is_one_word_for_a_real_shell(value in hostile()) {
        let template = Template::parse("printf '%s|' {} x{}y", &Shape::lines()).unwrap();
        let command = template.render_shell(&line(&value), &VARS).unwrap();
        let out = Command::new("sh").arg("-c").arg(&command).output().unwrap();
        let expected = [&value[..], b"|x", &value, b"y|"].concat();
        prop_assert!(out.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&out.stderr));
        prop_assert_eq!(out.stdout, expected);
    }

    #[test]
    fn any_bytes_are_a_template_or_refused(source in proptest::collection::vec(prop_oneof![Just(b'{'), Just(b'}'), Just(b'"'), any::<u8>()], 0..30)) {
        if let Ok(template) = Template::parse(&source, &Shape::lines()) {
            let rendered = template.render_bytes(&line("x"), &VARS);
            if template.is_constant() {
                prop_assert_eq!(rendered.unwrap(), source);
            }
        }
    }

    #[test]
    fn a_value_stays_inside_its_json_string(value in ".*") {
        let template = Template::parse(r#"{"a": {}, "b": "-{}-"}"#, &Shape::lines()).unwrap();
        let text = template.render_json(&line(&value), &VARS).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(parsed, serde_json::json!({"a": value, "b": format!("-{value}-")}));
    }
}
