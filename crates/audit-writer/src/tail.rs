//! Events as they are chained.

use std::time::{Duration, Instant};

use futures::{Stream, stream};
use shared::{db::Db, wire::internal::TailResponse};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{chain::Chain, rpc::stored, store};

/// Events in one message: of the largest, as many as fit one that every client takes.
const PAGE: i64 = 50;
const LOOK: Duration = Duration::from_millis(500);
/// How long a stream lasts: the reader's token has been asked for again by then.
const LONGEST: Duration = Duration::from_hours(1);

struct Tail {
    db: Db,
    chain: Chain,
    at: i64,
    began: Instant,
    stop: CancellationToken,
    told: bool,
}

/// Streams events after a place. They are read when they are asked for: a slow reader misses nothing and costs nothing.
pub(crate) fn stream(
    db: Db,
    chain: Chain,
    after: i64,
    stop: CancellationToken,
) -> impl Stream<Item = Result<TailResponse, Status>> + Send {
    let tail = Tail { db, chain, at: after, began: Instant::now(), stop, told: false };
    stream::try_unfold(tail, |mut tail| async move {
        Ok::<_, Status>(tail.next().await?.map(|next| (next, tail)))
    })
}

impl Tail {
    async fn next(&mut self) -> Result<Option<TailResponse>, Status> {
        if !std::mem::replace(&mut self.told, true) {
            return Ok(Some(TailResponse { events: Vec::new(), after_sequence: self.at }));
        }
        while self.began.elapsed() < LONGEST && !self.stop.is_cancelled() {
            let links = store::links_after(&self.db, self.chain, self.at, PAGE).await?;
            if let Some(last) = links.last() {
                self.at = last.sequence;
                let events = links.into_iter().map(stored).collect();
                return Ok(Some(TailResponse { events, after_sequence: 0 }));
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(None)
    }
}
