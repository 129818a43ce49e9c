//! Notes and rounds of notes at once, on a paused clock.

use futures_util::future::BoxFuture;
use longshore_brokers::{BrokerError, LimitState, Slot};
use longshore_core::{ErrorKind, Rate};

use super::*;

/// Time that the store takes to note something; it takes it back in three times of it.
const CALL: Duration = Duration::from_millis(300);

/// A store in which notes hold until they are taken back.
#[derive(Default)]
struct Store(Mutex<HashMap<String, String>>, Mutex<Option<ErrorKind>>);

impl Store {
    fn has(&self, id: &str) -> bool {
        locked(&self.0).contains_key(id)
    }
}

impl SharedState for Store {
    fn note_runs<'a>(&'a self, worker: &'a str, ids: &'a [String], time: Duration) -> BoxFuture<'a, Result<Vec<bool>, BrokerError>> {
        Box::pin(async move {
            tokio::time::sleep(CALL).await;
            if let Some(kind) = *locked(&self.1) {
                return Err(BrokerError { kind, message: "no".to_owned() });
            }
            let mut notes = locked(&self.0);
            let ours = ids.iter().map(|id| *notes.entry(id.clone()).or_insert_with(|| worker.to_owned()) == worker).collect();
            notes.retain(|id, of| of != worker || !time.is_zero() || !ids.contains(id));
            Ok(ours)
        })
    }

    fn forget_runs<'a>(&'a self, worker: &'a str, ids: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            tokio::time::sleep(CALL * 3).await;
            locked(&self.0).retain(|id, of| of != worker || !ids.contains(id));
            Ok(())
        })
    }

    fn reserve<'a>(&'a self, _: &'a str, _: Rate, _: usize) -> BoxFuture<'a, Result<Vec<Slot>, BrokerError>> {
        unreachable!("no rates")
    }

    fn set_limit<'a>(&'a self, _: &'a str, _: Option<Rate>) -> BoxFuture<'a, Result<(), BrokerError>> {
        unreachable!("no rates")
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<LimitState>, BrokerError>> {
        unreachable!("no rates")
    }

    fn revoke<'a>(&'a self, _: &'a [String]) -> BoxFuture<'a, Result<(), BrokerError>> {
        unreachable!("nothing is revoked")
    }

    fn revoked(&self) -> BoxFuture<'_, Result<Vec<String>, BrokerError>> {
        unreachable!("nothing is revoked")
    }
}

fn notes() -> (Arc<Store>, Arc<RunNotes>) {
    let store = Arc::new(Store::default());
    (store.clone(), Arc::new(RunNotes::new(store, "first".to_owned())))
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn live(ids: &[&str]) -> TaskIds {
    TaskIds { running: HashSet::new(), live: ids.iter().map(ToString::to_string).collect() }
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_in_keeps_its_note_until_it_is_live_or_given_up() {
    let (store, notes) = notes();
    let (taken_in, _) = notes.take_in(ids(&["a", "b"]));
    assert_eq!(notes.claim(&ids(&["a", "b"])).await.unwrap(), [true, true]);
    // Its result is looked for meanwhile, in a store that is slow.
    for _ in 0..5 {
        notes.round(|| live(&[])).await;
        assert!(store.has("a") && store.has("b"));
    }
    drop(taken_in);
    notes.round(|| live(&["a"])).await;
    assert!(store.has("a") && !store.has("b"), "one is live, and one was given up");
    notes.round(|| live(&[])).await;
    assert!(!store.has("a"), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_round_takes_no_note_back_that_is_made_meanwhile() {
    // At each moment of a round.
    for at in 0..20 {
        let (store, notes) = notes();
        notes.claim(&ids(&["a", "b"])).await.unwrap();
        let of_round = notes.clone();
        let round = tokio::spawn(async move { of_round.round(|| live(&["b"])).await });
        tokio::time::sleep(CALL / 4 * at).await;
        // It comes again.
        let (taken_in, _) = notes.take_in(ids(&["a"]));
        assert_eq!(notes.claim(&ids(&["a"])).await.unwrap(), [true]);
        round.await.unwrap();
        assert!(store.has("a"), "{at}");
        notes.round(|| live(&["b"])).await;
        assert!(store.has("a"), "{at}");
        drop(taken_in);
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_worker_runs_is_not_noted_here() {
    let (store, notes) = notes();
    let other = RunNotes::new(store.clone(), "other".to_owned());
    other.claim(&ids(&["a"])).await.unwrap();
    assert_eq!(notes.claim(&ids(&["a", "b"])).await.unwrap(), [false, true]);
    notes.round(|| live(&[])).await;
    assert!(store.has("a") && !store.has("b"));
}

#[tokio::test(start_paused = true)]
async fn whoever_dies_with_a_suspect_is_counted_and_whoever_ends_it_is_not() {
    let (store, notes) = notes();
    let worker = |name: &str| RunNotes::new(store.clone(), name.to_owned());
    // Crashes of `a` as its broker counts them: it was lent before.
    let deaths = async |of: &RunNotes| of.deaths(&[("b", 3), ("a", 3), ("a", 1)]).await;
    assert_eq!(deaths(&notes).await, [0, 0, 0]);
    assert_eq!(deaths(&notes).await, [0, 0, 0], "a look is no note");
    worker("dies").accuse("a", 1).await;
    assert_eq!(deaths(&notes).await, [0, 1, 1]);
    let ends = worker("ends");
    ends.accuse("a", 2).await;
    assert_eq!(deaths(&notes).await, [0, 2, 1]);
    ends.acquit([("a", 2)].into_iter()).await;
    assert_eq!(deaths(&notes).await, [0, 1, 1], "the one who died stays counted");
    worker("dies too").accuse("a", 2).await;
    assert_eq!(deaths(&notes).await, [0, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_says_nothing_and_one_that_refuses_leaves_it_to_us() {
    let (store, notes) = notes();
    *locked(&store.1) = Some(ErrorKind::Transient);
    assert_eq!(notes.claim(&ids(&["a"])).await.unwrap_err().kind, ErrorKind::Transient);
    *locked(&store.1) = Some(ErrorKind::Refused);
    assert_eq!(notes.claim(&ids(&["a"])).await.unwrap(), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_what_is_being_taken_in_is_known_as_one() {
    let (_, notes) = notes();
    let (first, are_copies) = notes.take_in(ids(&["a", "b", "a"]));
    assert_eq!(are_copies, [false, false, true]);
    let (second, are_copies) = notes.take_in(ids(&["b", "c"]));
    assert_eq!(are_copies, [true, false]);
    drop((first, second));
    assert_eq!(notes.take_in(ids(&["a", "b", "c"])).1, [false; 3]);
}
