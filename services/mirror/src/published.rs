//! `push.done` → a run of that one image, so that the copy lags by seconds.

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::v1::{MirrorRequested, PushDone};
use mecapy_store::{BuildState, PgPool, builds};

/// The handler of `push.done`. Off, it takes the messages off the queue, so that switching it on copies what is
/// published from then on and not the days before.
#[derive(Debug)]
pub struct Published {
    pub pool: PgPool,
    pub is_on: bool,
}

impl Handler<PushDone> for Published {
    async fn handle(&self, event: PushDone, _: &Delivery) -> Result<Outcome, HandlerError> {
        // Base images go to both registries when they are published.
        if !self.is_on || !event.base.is_empty() {
            return Ok(Outcome::nothing());
        }
        let id = event
            .build_id
            .parse()
            .map_err(|error: mecapy_proto::IdError| HandlerError::permanent(error.to_string()))?;
        let Some(build) = builds::get(&self.pool, id).await? else {
            return Err(HandlerError::permanent(format!("build {id} is not known")));
        };
        if build.state != BuildState::Ready
            || build.digest.as_deref() != Some(event.digest.as_str())
        {
            return Err(HandlerError::permanent(format!(
                "push.done does not say of build {id} what the record does"
            )));
        }
        let requested = MirrorRequested {
            run_id: format!("publish-{id}"),
            digests: vec![event.digest],
            reason: "publish".to_owned(),
            ..MirrorRequested::default()
        };
        Ok(Outcome::commit(move |_| Box::pin(async move { Ok(Outgoing::event(&requested)) })))
    }
}
