//! Spans of a batch that has ended: its attempts, how long they waited, and what they have sent.

use crate::{
    spans::{SpanEnd, SpanError, SpanKind},
    worker::{notice::TaskChange, shared::Shared},
};
use longshore_brokers::End;

use super::{Closing, Conclusion};

/// Error of an attempt whose task is somebody else's by now.
const LATE: &str = "its result came too late: the task is another worker's";

/// Puts them into the queue of spans, where some are made.
pub(super) fn put_spans(shared: &Shared, batch: &mut [Closing], late: &[usize]) {
    let Some(maker) = shared.client.maker() else { return };
    for (place, closing) in batch.iter_mut().enumerate() {
        let is_late = late.contains(&place);
        let sent = std::mem::take(&mut closing.conclusion.spans);
        if !is_late {
            sent.end(Some(maker), Ok(()));
        }
        let (Some(work), Some(message), Some((run, wait))) = (&closing.work, &closing.message, closing.conclusion.times) else { continue };
        let (Some((own, parent)), Some(start)) = (work.place.get(), work.started()) else { continue };
        if !own.is_recorded() {
            continue;
        }
        if let Some(parent) = parent {
            let own = maker.spans.below(Some(parent));
            let mut waited = maker.span(SpanKind::Wait, (own, Some(parent.clone())), message, &closing.queue);
            (waited.began, waited.ended) = (start.at.checked_sub(wait).unwrap_or(start.at), start.at);
            maker.spans.put(waited);
        }
        let mut span = maker.span(SpanKind::Run, (own.clone(), parent.clone()), message, &closing.queue);
        (span.began, span.ended) = (start.at, start.at + run);
        span.end = if is_late { SpanEnd::Error(SpanError::new("Late", LATE)) } else { end(&closing.conclusion) };
        maker.spans.put(span);
    }
}

/// Returns how an attempt ended, as its span says it.
fn end(conclusion: &Conclusion) -> SpanEnd {
    match &conclusion.what {
        Some(TaskChange::Failed { exception, traceback, .. }) => SpanEnd::Error(SpanError::of(exception, traceback.as_deref())),
        Some(TaskChange::Dead { reason }) => SpanEnd::Error(SpanError::new("DeadLetter", reason)),
        Some(TaskChange::Crashed { reason, .. }) => SpanEnd::Retry(SpanError::new("WorkerLostError", reason)),
        Some(TaskChange::Retried { exception, .. }) => SpanEnd::Retry(SpanError::of(exception, None)),
        Some(TaskChange::Revoked { .. }) => SpanEnd::Other("revoked"),
        Some(TaskChange::Rejected { .. }) => SpanEnd::Other("rejected"),
        Some(TaskChange::Ignored) => SpanEnd::Other("ignored"),
        Some(TaskChange::Replaced) => SpanEnd::Other("replaced"),
        None if matches!(conclusion.end, End::Back { .. }) => SpanEnd::Other("handed back"),
        _ => SpanEnd::Ok,
    }
}
