//! A recording, and the same done here: a client and a worker just large enough to know what the
//! canvas functions are to be asked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use longshore_celery::{
    Exception, Limits, Map, Message, ResultTree, State, Value, WireSignature,
    canvas::{
        ChordOutcome, ChordParts, Context, ErrbackStyle, FailedPart, FailedTask, Parent, Plan, add_to_chord, after_failure, after_success,
        apply, chord_complete, joined, replace, retry,
    },
};

/// What was recorded of one canvas.
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
    oid: String,
    signature: WireSignature,
    result: Value,
    client: Vec<Value>,
}

/// One task: its message, what became of it, what was written.
pub(crate) struct Step {
    input: Message,
    notes: Value,
    writes: Vec<Value>,
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn list(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_list).unwrap_or_default().to_vec()
}

fn message(raw: &Value) -> Message {
    Message::decode(raw.as_str().unwrap().as_bytes(), &Limits::default()).unwrap()
}

impl Recording {
    pub(crate) fn parse(line: &str) -> Self {
        let entry = Value::parse(line.as_bytes(), 500).unwrap();
        let client = list(entry.get("client"));
        let steps = list(entry.get("steps"));
        let written = client.iter().cloned().chain(steps.iter().flat_map(|step| list(step.get("writes"))));
        let sent: Vec<Value> = written.filter_map(|write| write.get("send").cloned()).collect();
        let number = |value: Option<&Value>| usize::try_from(value.and_then(Value::as_i64).unwrap()).unwrap();
        let step = |step: &Value| Step {
            input: message(&sent[number(step.get("input"))]),
            notes: step.get("notes").unwrap().clone(),
            writes: list(step.get("writes")),
        };
        Self {
            name: text(entry.get("name")),
            oid: text(entry.get("oid")),
            signature: WireSignature::from_value(entry.get("signature").unwrap().clone()).unwrap(),
            result: entry.get("result").unwrap().clone(),
            steps: steps.iter().map(step).collect(),
            client,
        }
    }

    /// Where what is done here is not what was recorded.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut known = Known::default();
        let mut ours = Written::default();
        let mut fresh = Fresh::new();
        let plan = apply(&self.signature, &[], &self.context(None), &mut fresh.next()).unwrap();
        let result = plan.result.as_ref().map(ResultTree::to_value);
        ours.plan(plan);
        ours.others.push(Value::Map(Map::from_iter([("result", result)])));
        let mut theirs = Written::recorded(&self.client, None);
        theirs.others.push(Value::Map(Map::from_iter([("result", self.result.clone())])));
        let given = format!("{}{}", self.oid, String::from_utf8(self.signature.to_value().to_json()).unwrap());
        found.extend(difference("the client", &given, &theirs, &ours));
        known.learn(&self.client);
        for (nth, step) in self.steps.iter().enumerate() {
            let ours = self.run(step, &mut known.clone(), &mut fresh);
            let mut theirs = Written::recorded(&step.writes, Some(&step.input.id));
            theirs.called(&step.notes);
            let given = format!("{}{}", self.oid, given_by(&step.input));
            found.extend(difference(&format!("task {nth} ({})", step.input.task), &given, &theirs, &ours));
            known.learn(&step.writes);
        }
        found
    }

    fn context<'a>(&'a self, parent: Option<Parent<'a>>) -> Context<'a> {
        let defaults: &dyn Fn(&str) -> Option<Map> = &|_| Some(Map::from_iter([("ignore_result", false)]));
        Context { oid: &self.oid, origin: "gen1@here", now: SystemTime::UNIX_EPOCH, parent, trace: None, defaults }
    }

    /// What a worker does when this task ends as it did.
    fn run(&self, step: &Step, known: &mut Known, fresh: &mut Fresh) -> Written {
        let mut out = Written::default();
        let (task, notes) = (&step.input, &step.notes);
        let context = self.context(None);
        let inside = self.context(Some(Parent::of(task)));
        let noted = |name: &str| list(notes.get(name)).into_iter().map(|sig| WireSignature::from_value(sig).unwrap()).next();
        let mut children = Vec::new();
        if let Some(sig) = noted("apply") {
            let plan = apply(&sig, &[], &inside, &mut fresh.next()).unwrap();
            children.extend(plan.children.clone());
            out.plan(plan);
        }
        if let Some(sig) = noted("add_to_chord") {
            let plan = add_to_chord(task, &sig, &context, &mut fresh.next()).unwrap();
            children.extend(plan.children.clone());
            out.plan(plan);
        }
        if let Some(sig) = noted("replace") {
            out.plan(replace(task, &sig, &context, &mut fresh.next()).unwrap());
            return out;
        }
        if let Some(result) = notes.get("success") {
            let plan = after_success(task, result, &context, &mut fresh.next()).unwrap();
            children.extend(plan.children.clone());
            out.plan(plan);
            if task.ignore_result != Some(true) {
                out.store(known, &failed(task), "SUCCESS", result, Some(&children));
            }
            self.part(task, &failed(task), "SUCCESS", result, known, fresh, &mut out);
        } else if let Some(exception) = notes.get("failure") {
            out.store(known, &failed(task), "FAILURE", exception, Some(&children));
            self.part(task, &failed(task), "FAILURE", exception, known, fresh, &mut out);
            let raised = Exception::from_value(exception).unwrap();
            let plan = after_failure(task, &raised, None, &context, &mut fresh.next(), &told).unwrap();
            for later in &plan.failed {
                self.fail(task, later, exception, known, fresh, &mut out);
            }
            let shown = raised.to_string();
            plan.call.iter().for_each(|errback| out.call(&errback.task, &task.id, &shown));
            out.plan(plan.plan);
        } else {
            let again = retry(task, Some(SystemTime::UNIX_EPOCH));
            children.push(ResultTree::task(&task.id));
            out.send(&again);
            let exception = Exception::builtin("KeyError", "again").to_value();
            out.store(known, &failed(task), "RETRY", &exception, Some(&children));
        }
        out
    }

    fn fail(&self, task: &Message, later: &FailedTask, exception: &Value, known: &mut Known, fresh: &mut Fresh, out: &mut Written) {
        let already = known.results.get(&later.id).is_some_and(|(state, _)| *state == State::Failure);
        out.store(known, later, "FAILURE", exception, (!later.children.is_empty()).then_some(&later.children));
        known.results.insert(later.id.clone(), (State::Failure, exception.clone()));
        if !already {
            self.part(task, later, "FAILURE", exception, known, fresh, out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a worker in one function")]
    fn part(
        &self,
        task: &Message,
        ended: &FailedTask,
        state: &str,
        result: &Value,
        known: &mut Known,
        fresh: &mut Fresh,
        out: &mut Written,
    ) {
        let Some(FailedPart { group, index, chord }) = &ended.part else { return };
        let member = Value::List(vec![1.into(), ended.id.as_str().into(), state.into(), result.clone()]);
        out.others.push(part_line(group, *index, &member));
        let header = known.chords.entry(group.clone()).or_default();
        header.parts.insert((index.unwrap_or(i64::MAX), ended.id.clone()), member);
        if header.parts.len() as i64 != header.size {
            return;
        }
        let members: Vec<Value> = header.parts.values().cloned().collect();
        let look = |id: &str| known.results.get(id).cloned();
        let mut own = known.results.clone();
        own.insert(ended.id.clone(), (state.into(), result.clone()));
        let look = |id: &str| own.get(id).cloned().or_else(|| look(id));
        let parts = match &header.saved {
            Some(saved) => ChordParts::Joined(joined(saved, &look)),
            None => ChordParts::Counted(&members),
        };
        let outcome = chord_complete(task, chord, &parts, &self.context(None), &mut fresh.next(), &told).unwrap();
        match outcome {
            ChordOutcome::Body(plan) => out.plan(plan),
            ChordOutcome::Error(failure) => {
                failure.call.iter().for_each(|(id, exception, errback)| out.call(&errback.task, id, &exception.to_string()));
                let body = chord.options.get("task_id").and_then(Value::as_str);
                // Celery does not tell whoever waits for the body of a chord that is this chord's
                // body.
                let nested = bodies(chord);
                for (later, exception) in &failure.failed {
                    let mut later = later.clone();
                    if nested.contains(&later.id) {
                        continue;
                    }
                    if Some(later.id.as_str()) == body {
                        // Celery does not tell an outer chord of this, which then waits for ever.
                        later.part = None;
                    }
                    self.fail(task, &later, &exception.to_value(), known, fresh, out);
                }
                out.plan(failure.plan);
            }
        }
    }
}

/// The ids of the bodies in a body.
fn bodies(chord: &WireSignature) -> Vec<String> {
    let mut ids = Vec::new();
    let mut body = chord.kwargs.get("body").cloned();
    while let Some(inner) = body {
        ids.push(text(inner.get("options").and_then(|options| options.get("task_id"))));
        body = inner.get("kwargs").and_then(|kwargs| kwargs.get("body")).cloned();
    }
    ids
}

fn told(errback: &str) -> ErrbackStyle {
    if errback == "lab.eb_here" { ErrbackStyle::Here } else { ErrbackStyle::Id }
}

/// A task's own place, in the words of those that fail with it.
fn failed(task: &Message) -> FailedTask {
    let part =
        |(group, chord): (&String, &Arc<WireSignature>)| FailedPart { group: group.clone(), index: task.group_index, chord: chord.clone() };
    FailedTask {
        id: task.id.clone(),
        group_id: task.group.clone(),
        parent_id: task.parent_id.clone(),
        part: task.group.as_ref().zip(task.chord.as_ref()).map(part),
        reply_to: task.reply_to.clone(),
        children: Vec::new(),
    }
}

/// What the result backend holds.
#[derive(Clone, Default)]
struct Known {
    results: HashMap<String, (State, Value)>,
    chords: HashMap<String, Header>,
}

#[derive(Clone, Default)]
struct Header {
    size: i64,
    saved: Option<ResultTree>,
    parts: BTreeMap<(i64, String), Value>,
}

impl Known {
    fn learn(&mut self, writes: &[Value]) {
        for write in writes {
            let number = |name: &str| write.get(name).and_then(Value::as_i64);
            if let Some(doc) = write.get("store") {
                let state = text(doc.get("status")).as_str().into();
                self.results.insert(text(doc.get("task_id")), (state, doc.get("result").unwrap().clone()));
            } else if let Some(group) = write.get("chord").and_then(Value::as_str) {
                self.chords.entry(group.into()).or_default().size += number("size").unwrap();
            } else if let Some(group) = write.get("save").and_then(Value::as_str) {
                let tree = write.get("doc").and_then(|doc| doc.get("result")).unwrap();
                self.chords.entry(group.into()).or_default().saved = Some(ResultTree::from_value(tree).unwrap());
            } else if let Some(group) = write.get("grow").and_then(Value::as_str) {
                self.chords.entry(group.into()).or_default().size += 1;
            } else if let Some(group) = write.get("part").and_then(Value::as_str) {
                let member = write.get("member").unwrap().clone();
                let id = text(member.as_list().unwrap().get(1));
                let header = self.chords.entry(group.into()).or_default();
                header.parts.insert((number("index").unwrap_or(i64::MAX), id), member);
            }
        }
    }
}

/// Ids that were in nobody's mouth before.
struct Fresh(u64);

impl Fresh {
    fn new() -> Self {
        Self(0)
    }

    fn next(&mut self) -> impl FnMut() -> String {
        || {
            self.0 += 1;
            format!("00000000-0000-4000-8000-{:012x}", self.0)
        }
    }
}

/// What was written: messages (and chords that start, or grow, before them), results, and all else,
/// each in order.
#[derive(Default)]
struct Written {
    sends: Vec<Value>,
    stores: Vec<Value>,
    others: Vec<Value>,
}

impl Written {
    fn recorded(writes: &[Value], own: Option<&str>) -> Self {
        let mut out = Self::default();
        let mut saved: HashMap<String, Value> = HashMap::new();
        for write in writes {
            if let Some(raw) = write.get("send") {
                out.send(&message(raw));
            } else if let Some(group) = write.get("save") {
                let doc = write.get("doc").and_then(|doc| doc.get("result")).unwrap();
                saved.insert(text(Some(group)), doc.clone());
            } else if let Some(group) = write.get("chord") {
                out.start(&text(Some(group)), write.get("size").unwrap(), saved.remove(&text(Some(group))));
            } else if let Some(doc) = write.get("store") {
                // Beside a task's own, documents show what happened to be sent so far.
                let mut doc = doc.as_map().unwrap().clone();
                if doc.get("task_id").and_then(Value::as_str) != own && list(doc.get("children")).is_empty() {
                    doc.remove("children");
                }
                out.stores.push(doc.into());
            } else if let Some(group) = write.get("part") {
                out.others.push(part_line(&text(Some(group)), write.get("index").and_then(Value::as_i64), write.get("member").unwrap()));
            } else {
                out.sends.push(write.clone());
            }
        }
        out
    }

    fn plan(&mut self, plan: Plan) {
        if let Some(group) = plan.grown {
            self.sends.push(Value::Map(Map::from_iter([("grow", group)])));
        }
        for send in plan.sends {
            for start in send.before {
                self.start(&start.group, &start.size.into(), start.saved.map(|saved| saved.tree.to_value()));
            }
            self.send(&send.message);
        }
        for start in plan.starts {
            self.start(&start.group, &start.size.into(), start.saved.map(|saved| saved.tree.to_value()));
        }
    }

    fn start(&mut self, group: &str, size: &Value, saved: Option<Value>) {
        self.sends.push(Value::Map(Map::from_iter([("chord", group.into()), ("size", size.clone()), ("saved", saved.into())])));
    }

    fn send(&mut self, message: &Message) {
        let signatures = |list: &[WireSignature]| Value::List(list.iter().map(|sig| tidy(&sig.to_value())).collect());
        let m = message;
        let fields: [(&str, Value); 26] = [
            ("task", m.task.as_str().into()),
            ("id", m.id.as_str().into()),
            ("root_id", m.root_id.as_deref().into()),
            ("parent_id", m.parent_id.as_deref().into()),
            ("group", m.group.as_deref().into()),
            ("group_index", m.group_index.into()),
            ("retries", m.retries.into()),
            ("eta", m.eta.is_some().into()),
            ("expires", format!("{:?}", m.expires).into()),
            ("limits", format!("{:?} {:?}", m.time_limit, m.soft_time_limit).into()),
            ("ignore_result", m.ignore_result.into()),
            ("shadow", m.shadow.as_deref().into()),
            ("nesting", m.replaced_task_nesting.into()),
            ("stamped_headers", m.stamped_headers.clone().into()),
            ("stamps", sorted(&m.stamps)),
            ("headers", sorted(&m.headers)),
            ("reply_to", m.reply_to.as_deref().into()),
            ("correlation_id", m.correlation_id.as_deref().into()),
            ("priority", u32::from(m.priority.unwrap_or(0)).into()),
            ("queue", if m.routing_key.is_empty() { "celery" } else { &m.routing_key }.into()),
            ("args", Value::List(m.args.clone())),
            ("kwargs", Value::Map(m.kwargs.clone())),
            ("callbacks", signatures(&m.callbacks)),
            ("errbacks", signatures(&m.errbacks)),
            ("chain", m.chain.as_deref().map(signatures).into()),
            ("chord", m.chord.as_ref().map(|chord| tidy(&chord.to_value())).into()),
        ];
        self.sends.push(Value::Map(Map::from_iter(fields)));
    }

    fn store(&mut self, known: &Known, task: &FailedTask, state: &str, result: &Value, children: Option<&[ResultTree]>) {
        if known.results.get(&task.id).is_some_and(|(state, _)| *state == State::Success) {
            return;
        }
        let mut doc: Map = Map::from_iter([("status", state.into()), ("result", result.clone())]);
        if let Some(children) = children {
            doc.set("children", children.iter().map(ResultTree::to_value).collect::<Vec<_>>());
        }
        for (name, id) in [("group_id", &task.group_id), ("parent_id", &task.parent_id)] {
            if let Some(id) = id {
                doc.set(name, id.as_str());
            }
        }
        doc.set("task_id", task.id.as_str());
        self.stores.push(doc.into());
    }

    fn call(&mut self, errback: &str, id: &str, exception: &str) {
        let called = [("errback", errback), ("id", id), ("exception", exception)];
        self.others.push(Value::Map(Map::from_iter([("called", Value::Map(Map::from_iter(called)))])));
    }

    fn called(&mut self, notes: &Value) {
        let called = list(notes.get("called")).into_iter();
        self.others.extend(called.map(|called| Value::Map(Map::from_iter([("called", called)]))));
    }

    fn lines(&self) -> Vec<String> {
        let all = self.sends.iter().chain(&self.stores).chain(&self.others);
        all.map(|value| String::from_utf8(value.to_json()).unwrap()).collect()
    }
}

fn part_line(group: &str, index: Option<i64>, member: &Value) -> Value {
    Value::Map(Map::from_iter([("part", group.into()), ("index", index.into()), ("member", member.clone())]))
}

fn sorted(map: &Map) -> Value {
    let mut members = map.0.clone();
    members.sort_by(|one, other| one.0.cmp(&other.0));
    Value::Map(Map(members))
}

/// What stands in embedded signatures by chance: the order of options, nulls, and what Celery lets
/// slip into them.
fn tidy(value: &Value) -> Value {
    match value {
        Value::List(list) => Value::List(list.iter().map(tidy).collect()),
        Value::Map(map) => {
            let mut out = Map(map.iter().map(|(name, value)| (name.to_owned(), tidy(value))).collect());
            if let (Some(_), Some(Value::Map(options))) = (out.get("task"), out.get("options")) {
                let mut options = options.clone();
                options.0.retain(|(name, value)| !value.is_null() && !["add_to_parent", "producer"].contains(&name.as_str()));
                out.set("options", sorted(&options));
            }
            sorted(&out)
        }
        other => other.clone(),
    }
}

fn given_by(message: &Message) -> String {
    let mut written = Written::default();
    written.send(message);
    written.lines().concat()
}

/// The first line in which two writings differ, ids being called by the order in which they come up
/// after those that were given.
fn difference(what: &str, given: &str, theirs: &Written, ours: &Written) -> Option<String> {
    let (theirs, ours) = (named(given, &theirs.lines()), named(given, &ours.lines()));
    let longer = theirs.len().max(ours.len());
    let (nothing, at) = ("nothing".to_owned(), (0..longer).find(|at| theirs.get(*at) != ours.get(*at))?);
    let get = |lines: &[String]| lines.get(at).unwrap_or(&nothing).clone();
    let (theirs, ours) = (get(&theirs), get(&ours));
    let same = theirs.bytes().zip(ours.bytes()).take_while(|(one, other)| one == other).count().saturating_sub(40);
    let part = |text: &str| String::from_utf8_lossy(&text.as_bytes()[same..text.len().min(same + 400)]).into_owned();
    Some(format!("{what}, line {at}, from {same}:\n  Celery: {}\n  here:   {}", part(&theirs), part(&ours)))
}

fn named(given: &str, lines: &[String]) -> Vec<String> {
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut rename = |text: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_ascii_hexdigit()) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.len() >= 36 && is_id(&rest.as_bytes()[..36]) {
                let next = names.len();
                out.push_str(&format!("<{}>", names.entry(rest[..36].to_owned()).or_insert(next)));
                rest = &rest[36..];
            } else {
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
        out + rest
    };
    rename(given);
    lines.iter().map(|line| rename(line)).collect()
}

fn is_id(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| if [8, 13, 18, 23].contains(&at) { *byte == b'-' } else { byte.is_ascii_hexdigit() })
}
