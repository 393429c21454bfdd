//! What a run needs, fetched before an attempt is taken: the inputs, and a container that waits or an image.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mecapy_proto::ErrorCode;
use mecapy_proto::v1::CacheOutcome;
use mecapy_store::task_runs::KnownFunction;
use mecapy_store::tasks::Task;

use crate::dispatch::Dispatch;
use crate::error::Problem;
use crate::execution::Start;
use crate::image_choice::{self, Choice};
use crate::images::Held;
use crate::worker::Worker;
use crate::{inputs, metric_definitions as metrics};

/// All that a run needs, at hand.
pub(crate) struct Prepared {
    pub choice: Choice,
    pub start: Start,
    pub cache: CacheOutcome,
    pub inputs: Bytes,
    pub took: Duration,
}

impl Prepared {
    /// Only where a container waits, which costs nothing when it is in vain, and only for the first attempt: before
    /// another, what the last one left behind is looked for under the claim.
    pub(crate) fn may_begin_before_the_claim(&self, task: &Task) -> bool {
        task.attempt == 0 && matches!(self.start, Start::Parked(..))
    }
}

impl Worker {
    pub(crate) async fn prepare(
        &self,
        dispatch: &Dispatch,
        task: &Task,
        function: Option<&KnownFunction>,
    ) -> Result<Prepared, Problem> {
        let began = Instant::now();
        let function = function.ok_or_else(|| {
            let message =
                format!("function {} is not there any more: it was deleted", task.function_id);
            Problem::refused(ErrorCode::UnknownFunction, message)
        })?;
        let inputs = inputs::read(
            &self.objects,
            dispatch.task.id,
            dispatch.inputs.as_ref(),
            task.inputs_s3_key.as_deref(),
        );
        let image = async {
            let choice =
                image_choice::choose(&self.pool, &self.sources, function, &task.image).await?;
            if let Some(start) = self.parked_start(&choice).await {
                return Ok((choice, start, CacheOutcome::Hit));
            }
            let (image, cache) = self.images.take(&choice.repository, choice.digest).await?;
            Ok((choice, Start::Plain(image), cache))
        };
        let (inputs, (choice, start, cache)) = futures::try_join!(inputs, image)?;
        metrics::image_asked(cache);
        Ok(Prepared { choice, start, cache, inputs, took: began.elapsed() })
    }

    /// A container that waits with this image's dependencies. Whether the image itself is here does not matter.
    async fn parked_start(&self, choice: &Choice) -> Option<Start> {
        if !self.parked.has_any() {
            return None;
        }
        let code = self.codes.get(&choice.repository, choice.digest).await?;
        let slot = self.parked.take(&code, choice.digest).await?;
        Some(Start::Parked(Box::new(slot), code))
    }

    /// What has the next task with these dependencies find a container that waits.
    pub(crate) fn learning(
        &self,
        choice: Choice,
        image: Arc<Held>,
    ) -> impl FnOnce() + Send + use<> {
        let (codes, parked) = (self.codes.clone(), self.parked.clone());
        let tasks = self.afterwards.clone();
        move || {
            if !parked.is_on() {
                return;
            }
            tasks.spawn(async move {
                if let Some(code) = codes.get(&choice.repository, choice.digest).await {
                    parked.learn(&code, image);
                }
            });
        }
    }
}
