//! What is stored or sent before the step that acknowledges, in a store of its own.

use futures_util::future::BoxFuture;
use longshore_brokers::{BrokerError, End, Ended, Finish, Stored};
use longshore_core::ErrorKind;

use super::{AGAIN, Closer, Closing, RARELY, Refusals, finish};

impl Closer {
    /// Stores documents in a store of their own, each while its message is ours, as far as we know.
    /// Adds those to `late` whose message is not.
    pub(super) async fn store_apart(
        &self,
        batch: &[Closing],
        mut asked: StoreRequests<Stored>,
        refused: &mut Refusals,
        late: &mut Vec<usize>,
    ) -> Result<(), BrokerError> {
        let mut pause = AGAIN;
        let mut each_alone = false;
        while !asked.ends.is_empty() {
            // Anew before each attempt: while a store is away, a lease may run out.
            let elsewhere = self.elsewhere(batch, asked.places()).await?;
            if !elsewhere.is_empty() {
                asked.leave_out(&elsewhere);
                late.extend(elsewhere);
                continue;
            }
            let some = if each_alone { 1 } else { asked.ends.len() };
            match self.shared.results.store(asked.first(some)).await {
                Ok(()) => asked.drop_first(some),
                Err(error) if error.kind == ErrorKind::Refused && some > 1 => each_alone = true,
                Err(error) if error.kind == ErrorKind::Refused => {
                    refused.extend(asked.places().next().map(|place| (place, error.message)));
                    asked.drop_first(1);
                }
                Err(error) if error.kind == ErrorKind::Fatal => return Err(error),
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RARELY);
                }
            }
        }
        Ok(())
    }

    /// Stores one document in the same way. Returns whether its message is still ours; the inner
    /// error is the reason for a refusal.
    pub(super) async fn store_one_apart(&self, closing: &Closing, document: Stored) -> Result<Result<bool, String>, BrokerError> {
        let (mut asked, mut refused, mut late) = (StoreRequests::new(), Refusals::new(), Vec::new());
        asked.add(0, vec![document]);
        self.store_apart(std::slice::from_ref(closing), asked, &mut refused, &mut late).await?;
        Ok(refused.into_values().next().map_or(Ok(late.is_empty()), Err))
    }

    /// Returns those whose message the broker has given to somebody else. It is asked of messages
    /// that were claimed in another term of our lease than the one that runs now.
    async fn elsewhere(&self, batch: &[Closing], places: impl Iterator<Item = usize>) -> Result<Vec<usize>, BrokerError> {
        let now = self.shared.term();
        let is_unsure = |place: &usize| batch[*place].term.is_some_and(|term| now != Some(term));
        let unsure = places.filter(is_unsure).filter_map(|place| Some((place, finish(batch[place].receipt?, End::Keep))));
        let (places, asked): (Vec<usize>, Vec<Finish>) = unsure.unzip();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let said = self.shared.consumer.finish(&asked).await?;
        let places: Vec<usize> = places.into_iter().zip(said).filter(|(_, said)| *said == Ended::Refused).map(|(place, _)| place).collect();
        let Some(runs) = self.shared.runs.as_ref().filter(|_| !places.is_empty()) else { return Ok(places) };
        // Whoever has the message now waits as long as our note holds, and then finds the result.
        let id = |place: &usize| batch[*place].message.as_ref().map_or_else(String::new, |message| message.id.clone());
        let ids: Vec<String> = places.iter().map(id).collect();
        let ours = super::insist(|| runs.claim(&ids)).await?.unwrap_or_else(|_| vec![true; ids.len()]);
        Ok(places.into_iter().zip(ours).filter(|(_, ours)| !ours).map(|(place, _)| place).collect())
    }
}

/// Gives a store what several ask for, in one call; where that is refused, each one's part alone,
/// so that only whoever is at fault is refused.
pub(super) async fn together<'a, T>(
    asked: &'a StoreRequests<T>,
    refused: &mut Refusals,
    give: impl Fn(&'a [T]) -> BoxFuture<'a, Result<Result<(), String>, BrokerError>>,
) -> Result<(), BrokerError> {
    if asked.all.is_empty() || give(&asked.all).await?.is_ok() {
        return Ok(());
    }
    let mut from = 0;
    for (place, to) in &asked.ends {
        if let Err(why) = give(&asked.all[from..*to]).await? {
            refused.insert(*place, why);
        }
        from = *to;
    }
    Ok(())
}

/// Things that several of a batch want from a store, in one list.
pub(super) struct StoreRequests<T> {
    all: Vec<T>,
    /// Place of each who asks, and the end of its part of `all`.
    ends: Vec<(usize, usize)>,
}

impl<T> StoreRequests<T> {
    pub(super) fn new() -> Self {
        Self { all: Vec::new(), ends: Vec::new() }
    }

    pub(super) fn add(&mut self, place: usize, some: Vec<T>) {
        if !some.is_empty() {
            self.all.extend(some);
            self.ends.push((place, self.all.len()));
        }
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        self.ends.iter().map(|(place, _)| *place)
    }

    /// Returns what the first of those who ask want.
    fn first(&self, many: usize) -> &[T] {
        &self.all[..many.checked_sub(1).map_or(0, |last| self.ends[last].1)]
    }

    fn drop_first(&mut self, many: usize) {
        let first: Vec<usize> = self.places().take(many).collect();
        self.leave_out(&first);
    }

    /// Leaves out what these want.
    fn leave_out(&mut self, places: &[usize]) {
        let mut all = std::mem::take(&mut self.all).into_iter();
        let mut from = 0;
        for (place, to) in std::mem::take(&mut self.ends) {
            let some = all.by_ref().take(to - from).collect();
            from = to;
            if !places.contains(&place) {
                self.add(place, some);
            }
        }
    }
}
