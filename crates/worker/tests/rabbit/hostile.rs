//! Messages that no client of Celery's sends, as frames: each ends as a FAILURE or a dead letter or
//! runs, the good ones between them run, and the connections stay.

use longshore_testkit::rabbit::{
    self,
    raw::{FRAME_MAX, Place, RawProperties, RawPublisher, field, long, nested, text},
};

use crate::bench::{Bench, body, headers, int, list, properties};

/// End of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A dead letter, or junk; with a FAILURE where its id can be read.
    Letter,
    /// It runs: RabbitMQ and Celery mean nothing by what is strange in it.
    Runs,
    /// The server does not take it.
    NotTaken,
}

struct Case {
    what: &'static str,
    end: End,
    /// Of an id: the properties and the body.
    make: fn(&str) -> (RawProperties, Vec<u8>),
}

const NUMBER: i64 = -7;

fn with(others: Vec<u8>) -> impl Fn(&str) -> (RawProperties, Vec<u8>) {
    move |id| (properties(id, &headers(id, "good", &others)), body(NUMBER))
}

fn with_body(id: &str, body: &[u8]) -> (RawProperties, Vec<u8>) {
    (properties(id, &headers(id, "good", b"")), body.to_vec())
}

fn with_property(id: &str, place: Place, bytes: &[u8]) -> (RawProperties, Vec<u8>) {
    (properties(id, &headers(id, "good", b"")).raw(place, bytes), body(NUMBER))
}

fn with_short(id: &str, place: Place, bytes: &[u8]) -> (RawProperties, Vec<u8>) {
    (properties(id, &headers(id, "good", b"")).short(place, bytes), body(NUMBER))
}

/// Fills the frame with one more header.
fn full(id: &str, task: &str, others: Vec<u8>) -> (RawProperties, Vec<u8>) {
    let of = |size: usize| properties(id, &headers(id, task, &[others.clone(), text("fill", &"x".repeat(size))].concat()));
    let filled = of(FRAME_MAX - of(0).size_of_frame());
    assert_eq!(filled.size_of_frame(), FRAME_MAX);
    (filled, body(NUMBER))
}

macro_rules! case {
    ($what:literal, $end:ident, $make:expr) => {
        Case { what: $what, end: End::$end, make: $make }
    };
}

#[rustfmt::skip]
const STRANGE_FRAMES: &[Case] = &[
    case!("a header's name is not UTF-8", Letter, |id| with(field(b"\xff\xfe", b'V', b""))(id)),
    case!("a header's name has no bytes", Runs, |id| with(field(b"", b'V', b""))(id)),
    case!("a header's name has 255 bytes of 0xff", Letter, |id| with(field(&[0xff; 255], b'V', b""))(id)),
    case!("a name in a table in a header is not UTF-8", Letter, |id| with(field(b"x", b'F', &long(&field(b"\xc3\x28", b'V', b""))))(id)),
    case!("a type of values that nobody knows", NotTaken, |id| with(field(b"x", b'Q', b""))(id)),
    case!("a list with a type that nobody knows", NotTaken, |id| with(field(b"x", b'A', &list(&[b"?"])))(id)),
    case!("a table that is longer than it is", NotTaken, |id| with(field(b"x", b'F', &[0, 0, 9, 9]))(id)),
    case!("a text that is longer than the frame", NotTaken, |id| with(field(b"x", b'S', &[0xff; 4]))(id)),
    case!("every type of values", Runs, |id| with([
        field(b"t", b't', &[1]), field(b"b", b'b', &[0x80]), field(b"s", b's', &[0x80, 0]), field(b"I", b'I', &[0x80, 0, 0, 0]), field(b"l", b'l', &[0xff; 8]),
        field(b"f", b'f', &[0x7f, 0x7f, 0xff, 0xff]), field(b"d", b'd', &[0x80, 0, 0, 0, 0, 0, 0, 1]), field(b"D", b'D', &[255, 0xff, 0xff, 0xff, 0xff]), field(b"T", b'T', &[0xff; 8]),
        field(b"V", b'V', b""), field(b"x", b'x', &long(&[0xff; 9])), field(b"S", b'S', &long(&[0xff; 9])), field(b"A", b'A', &list(&[b"V", b"t\x01"])),
    ].concat())(id)),
    case!("a number that is none", NotTaken, |id| with(field(b"d", b'd', &[0x7f, 0xf8, 0, 0, 0, 0, 0, 0]))(id)),
    case!("tables 60 deep", Runs, |id| with(field(b"x", b'F', &long(&nested(60))))(id)),
    case!("tables 64 deep", Letter, |id| with(field(b"x", b'F', &long(&nested(64))))(id)),
    case!("tables 1 000 deep", Letter, |id| with(field(b"x", b'F', &long(&nested(1_000))))(id)),
    case!("tables 18 000 deep", Letter, |id| with(field(b"x", b'F', &long(&nested(18_000))))(id)),
    case!("lists 20 000 deep", Letter, |id| {
        let mut lists = Vec::new();
        (0..20_000_u32).rev().for_each(|level| lists.extend_from_slice(&[&b"A"[..], &((20_000 - 1 - (19_999 - level)) * 5).to_be_bytes()].concat()));
        with(field(b"x", b'A', &long(&lists)))(id)
    }),
    case!("headers that fill a frame", Runs, |id| full(id, "good", Vec::new())),
    case!("headers that fill a frame, of no task", Letter, |id| full(id, "no.such", Vec::new())),
    case!("headers that fill a frame, of which one cannot be read", Letter, |id| full(id, "good", field(b"\xff", b'V', b""))),
    case!("20 000 empty headers", Runs, |id| with((0..10_000).flat_map(|at: u32| field(format!("{at:x}").as_bytes(), b'V', b"")).collect())(id)),
    case!("the same header twice", Runs, |id| with([int("retries", 1), int("retries", 2)].concat())(id)),
    case!("no properties at all", Letter, |_| (RawProperties::default(), body(NUMBER))),
    case!("no headers", Letter, |id| (properties(id, b""), body(NUMBER))),
    case!("properties of 255 bytes of 0xff", Letter, |id| with_short(id, Place::MessageId, &[0xff; 255])),
    case!("a content type of 255 bytes of 0xff", Letter, |id| with_short(id, Place::ContentType, &[0xff; 255])),
    case!("a reply_to of 255 bytes", Runs, |id| with_short(id, Place::ReplyTo, &[b'r'; 255])),
    case!("a correlation id of 255 bytes", Runs, |id| with_short(id, Place::CorrelationId, &[b'c'; 255])),
    case!("no correlation id", Runs, |id| (RawProperties::default().short(Place::ContentType, b"application/json").short(Place::ContentEncoding, b"utf-8").headers(&headers(id, "good", b"")), body(NUMBER))),
    case!("priority 255", Runs, |id| with_property(id, Place::Priority, &[255])),
    case!("delivery_mode 7", NotTaken, |id| with_property(id, Place::DeliveryMode, &[7])),
    case!("timestamp 2^64-1", Runs, |id| with_property(id, Place::Timestamp, &[0xff; 8])),
    case!("an expiration that is no number", NotTaken, |id| with_short(id, Place::Expiration, b"soon")),
    case!("another's user id", NotTaken, |id| with_short(id, Place::UserId, b"root")),
    case!("the sender's own user id", Runs, |id| with_short(id, Place::UserId, b"guest")),
    case!("a cluster id", Runs, |id| with_short(id, Place::ClusterId, &[b'x'; 255])),
    case!("a reply to the channel itself", NotTaken, |id| with_short(id, Place::ReplyTo, b"amq.rabbitmq.reply-to")),
    case!("CC that is no list", NotTaken, |id| with(text("CC", "celery"))(id)),
    case!("CC to its own queue and to none", Runs, |id| with(field(b"CC", b'A', &list(&[b"S\0\0\0\x06celery", b"S\0\0\0\x04none"])))(id)),
    case!("CC to its own queue, of no task", Letter, |id| (properties(id, &headers(id, "no.such", &field(b"CC", b'A', &list(&[b"S\0\0\0\x06celery"])))), body(NUMBER))),
    case!("BCC to nowhere", Runs, |id| with(field(b"BCC", b'A', &list(&[b"S\0\0\0\x04none"])))(id)),
];

#[rustfmt::skip]
const WRONG_TYPES: &[Case] = &[
    case!("id is a number", Letter, |id| with(int("id", 5))(id)),
    case!("id is void", Letter, |id| with(field(b"id", b'V', b""))(id)),
    case!("id is empty", Letter, |id| with(text("id", ""))(id)),
    case!("id has 100 000 bytes", Runs, |id| with(text("id", &"i".repeat(100_000)))(id)),
    case!("id is not UTF-8", Runs, |id| with(field(b"id", b'S', &long(b"\xff\xfe")))(id)),
    case!("task is a table", Letter, |id| with(field(b"task", b'F', &long(b"")))(id)),
    case!("task is a number", Letter, |id| with(int("task", 5))(id)),
    case!("task is unknown", Letter, |id| with(text("task", "no.such"))(id)),
    case!("retries is a text", Letter, |id| with(text("retries", "many"))(id)),
    case!("retries is negative", Letter, |id| with(int("retries", -1))(id)),
    case!("eta is a list", Letter, |id| with(field(b"eta", b'A', &list(&[b"V"])))(id)),
    case!("eta is rubbish", Letter, |id| with(text("eta", "tomorrow"))(id)),
    case!("eta is a moment of AMQP's", Letter, |id| with(field(b"eta", b'T', &[0xff; 8]))(id)),
    case!("timelimit is a text", Letter, |id| with(text("timelimit", "x"))(id)),
    case!("timelimit is a list of tables", Letter, |id| with(field(b"timelimit", b'A', &list(&[b"F\0\0\0\0", b"F\0\0\0\0"])))(id)),
    case!("timelimit is not a number", NotTaken, |id| with(field(b"timelimit", b'A', &list(&[b"d\x7f\xf8\0\0\0\0\0\0", b"V"])))(id)),
    case!("expires is negative", Letter, |id| with(int("expires", -5))(id)),
    case!("expires is a table", Letter, |id| with(field(b"expires", b'F', &long(b"")))(id)),
    case!("group is a list", Letter, |id| with(field(b"group", b'A', &list(&[])))(id)),
    case!("root_id is a table", Letter, |id| with(field(b"root_id", b'F', &long(b"")))(id)),
    case!("stamps is a text", Letter, |id| with(text("stamps", "x"))(id)),
    case!("argsrepr is not UTF-8", Runs, |id| with(field(b"argsrepr", b'S', &long(&[0xff; 300])))(id)),
    case!("ignore_result is a text", Letter, |id| with(text("ignore_result", "maybe"))(id)),
    case!("compression of rubbish", Letter, |id| with(text("compression", "gzip"))(id)),
    case!("compression that nobody knows", Letter, |id| with(text("compression", "rot13"))(id)),
];

#[rustfmt::skip]
const BODIES: &[Case] = &[
    case!("an empty body", Letter, |id| with_body(id, b"")),
    case!("2 elements", Letter, |id| with_body(id, b"[[1], {}]")),
    case!("4 elements", Letter, |id| with_body(id, b"[[1], {}, {}, {}]")),
    case!("an object", Letter, |id| with_body(id, b"{}")),
    case!("null", Letter, |id| with_body(id, b"null")),
    case!("no JSON", Letter, |id| with_body(id, b"hello")),
    case!("JSON that stops", Letter, |id| with_body(id, b"[[1], {}, {")),
    case!("NaN", Runs, |id| with_body(id, b"[[-7, NaN, Infinity], {}, {}]")),
    case!("lists 100 000 deep", Letter, |id| with_body(id, &[b'['; 100_000])),
    case!("not UTF-8", Letter, |id| with_body(id, b"[[\"\xff\"], {}, {}]")),
    case!("arguments are a text", Letter, |id| with_body(id, b"[\"ab\", {}, {}]")),
    case!("kwargs are a list", Letter, |id| with_body(id, b"[[], [1], {}]")),
    case!("20 MiB", Letter, |id| with_body(id, &[b'x'; 20 << 20])),
    case!("a pickle", Letter, |id| (properties(id, &headers(id, "good", b"")).short(Place::ContentType, b"application/x-python-serialize").short(Place::ContentEncoding, b"binary"), b"\x80\x04N.".to_vec())),
    case!("a content type that nobody knows", Letter, |id| with_short(id, Place::ContentType, b"text/klingon")),
    case!("a content encoding that nobody knows", Letter, |id| with_short(id, Place::ContentEncoding, b"ebcdic")),
    case!("protocol 1", Runs, |id| (properties(id, b""), format!("{{\"task\": \"good\", \"id\": \"{id}\", \"args\": [{NUMBER}], \"kwargs\": {{}}}}").into_bytes())),
    case!("protocol 1 without an id", Letter, |id| (properties(id, b""), b"{\"task\": \"good\", \"args\": []}".to_vec())),
    case!("protocol 1 with args that are a number", Letter, |id| (properties(id, b""), format!("{{\"task\": \"good\", \"id\": \"{id}\", \"args\": 5}}").into_bytes())),
];

#[rustfmt::skip]
const OURS_BY_NAME: &[Case] = &[
    case!("x-longshore-raw, and a body that is none", Letter, |id| with(field(b"x-longshore-raw", b't', &[1]))(id)),
    case!("x-longshore-raw that is a table", Letter, |id| with(field(b"x-longshore-raw", b'F', &long(b"")))(id)),
    case!("x-longshore-unreadable", Runs, |id| with(field(b"x-longshore-unreadable", b'F', &long(b"")))(id)),
    case!("x-longshore-unreadable of bytes", Runs, |id| with(field(b"x-longshore-unreadable", b'S', &long(&[0xff; 99])))(id)),
    case!("x-longshore-reason and its kin", Runs, |id| with([text("x-longshore-reason", "none"), int("x-longshore-died", -1), field(b"x-longshore-key", b'V', b"")].concat())(id)),
    case!("x-death that is a text", Runs, |id| with(text("x-death", "me"))(id)),
    case!("x-death of lists and tables", Runs, |id| with(field(b"x-death", b'A', &list(&[b"F\0\0\0\0", b"V"])))(id)),
    case!("x-delivery-count of a million", Runs, |id| with(int("x-delivery-count", 1_000_000))(id)),
    case!("x-delivery-count that is a table", Runs, |id| with(field(b"x-delivery-count", b'F', &long(b"")))(id)),
];

/// Sends it. A quorum queue that was made just now may not take anything yet.
fn sent(raw: &mut RawPublisher, properties: &RawProperties, body: &[u8]) -> Result<(), String> {
    loop {
        match raw.publish(b"", b"celery", properties, body).unwrap() {
            Err(why) if why == "nack" => std::thread::sleep(std::time::Duration::from_millis(20)),
            taken => return taken,
        }
    }
}

/// A worker that has to live through all of them.
async fn each_ends(options: &str, cases: &[&[Case]]) -> Vec<String> {
    let Some(url) = rabbit::vhost() else { return Vec::new() };
    let vhost = url.rsplit('/').next().unwrap().to_owned();
    let server = rabbit::shared().unwrap();
    let bench = Bench::new(&format!("{url}{options}"));
    let worker = bench.worker([]).await;
    let connections = || {
        server.eval(&format!(
            "lists:sort([proplists:get_value(pid, C) || C <- rabbit_networking:connection_info_all([pid, vhost, client_properties]), \
             proplists:get_value(vhost, C) =:= <<\"{vhost}\">>, lists:keyfind(<<\"product\">>, 1, proplists:get_value(client_properties, C)) =/= false])."
        ))
    };
    let mut raw = RawPublisher::connect(server.port(), &vhost).unwrap();
    let (mut good, mut wrong, mut letters) = (0, Vec::new(), 0);
    let mut before = String::new();
    bench.until("the queue is there", async || server.queues(&vhost).iter().any(|(name, ..)| name == "celery")).await;
    for (number, case) in cases.iter().copied().flatten().enumerate() {
        let id = format!("case-{number}");
        let (properties_of, body_of) = (case.make)(&id);
        let ran = bench.runs(NUMBER);
        let taken = sent(&mut raw, &properties_of, &body_of);
        good += 1;
        let good_id = format!("good-{good}");
        sent(&mut raw, &properties(&good_id, &headers(&good_id, "good", b"")), &body(good)).unwrap();
        bench.until(case.what, async || bench.runs(good) == 1).await;
        bench
            .until(case.what, async || {
                server.queues(&vhost).iter().all(|(name, ready, unacked, _)| name != "celery" || ready + unacked == 0)
            })
            .await;
        let now: u64 = server.queues(&vhost).iter().filter(|(name, ..)| name.starts_with("longshore.")).map(|(_, ready, ..)| ready).sum();
        let state = bench.state(&id).await.map(|state| state.as_str().to_owned());
        let end = match (taken.is_err(), now - letters, bench.runs(NUMBER) - ran, state.as_deref()) {
            (true, 0, 0, None) => Some(End::NotTaken),
            (false, 1, 0, _) => Some(End::Letter),
            (false, 0, 1, None | Some("SUCCESS")) => Some(End::Runs),
            _ => None,
        };
        if end != Some(case.end) {
            wrong.push(format!(
                "{}: {end:?} ({taken:?}, {} letters, {} runs, {state:?}) in place of {:?}",
                case.what,
                now - letters,
                bench.runs(NUMBER) - ran,
                case.end
            ));
        }
        letters = now;
        // The second connection is made with the first message that is sent.
        if number == 10 {
            before = connections();
        }
    }
    let after = connections();
    if before != after {
        wrong.push(format!("connections were lost: {before} => {after}"));
    }
    let listed = bench.connected.letters().unwrap().dead(Some("celery")).await.unwrap();
    assert_eq!(listed.len() as u64, letters);
    assert!(listed.iter().all(|letter| !letter.reason.is_empty() && !letter.key.is_empty() && letter.reason != "none"), "{listed:?}");
    // Sent again, each dies again.
    let again: Vec<_> = listed.into_iter().filter(|letter| letter.raw.len() < 1 << 20).collect();
    bench.connected.letters().unwrap().bury(&again, true).await.unwrap();
    let dead =
        async || server.queues(&vhost).iter().filter(|(name, ..)| name.starts_with("longshore.")).map(|(_, ready, ..)| ready).sum::<u64>();
    bench.until("they die again", async || dead().await == letters).await;
    worker.stopper().warm();
    let summary = worker.join().await;
    assert_eq!(summary.error, None);
    println!(
        "{} bad messages, {letters} letters, {good} good ones; said: {:#?}",
        cases.iter().map(|some| some.len()).sum::<usize>(),
        bench.said.lock().unwrap()
    );
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_messages_end_by_themselves_and_the_good_ones_between_them_run() {
    assert_eq!(each_ends("", &[STRANGE_FRAMES, WRONG_TYPES, BODIES, OURS_BY_NAME]).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_frames_do_no_harm_in_a_quorum_queue_either() {
    assert_eq!(each_ends("?queue_type=quorum", &[STRANGE_FRAMES]).await, [""; 0]);
}
