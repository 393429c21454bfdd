//! What the engine tells of containers while it happens.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt};

use crate::Engine;

const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

impl Engine {
    /// Ids of containers in which the kernel killed for want of memory: of all containers from now on, or of one, with
    /// what the engine remembers of it. Ends when the engine can't tell.
    pub(crate) fn out_of_memory_events(
        &self,
        container: Option<&str>,
    ) -> impl Stream<Item = String> + use<> {
        // From the beginning of time: the engine gives what it still has.
        let since = container.map(|_| "1".to_owned());
        self.container_events("oom", container, since)
    }

    /// Ids of all containers to which it happens, from this moment on, whenever the stream is first read; and of some
    /// before, so that none is missed where the engine's clock is behind.
    pub(crate) fn container_events_from_now(
        &self,
        event: &str,
    ) -> impl Stream<Item = String> + use<> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(CLOCKS_DIFFER).as_secs();
        self.container_events(event, None, Some(since.to_string()))
    }

    fn container_events(
        &self,
        event: &str,
        container: Option<&str>,
        since: Option<String>,
    ) -> impl Stream<Item = String> + use<> {
        let one = |value: &str| vec![value.to_owned()];
        let mut filters = HashMap::from([
            ("type".to_owned(), one("container")),
            ("event".to_owned(), one(event)),
        ]);
        if let Some(container) = container {
            filters.insert("container".to_owned(), one(container));
        }
        let mut options = EventsOptionsBuilder::default();
        if let Some(since) = &since {
            options = options.since(since);
        }
        self.docker
            .events(Some(options.filters(&filters).build()))
            .filter_map(|event| async { event.ok()?.actor?.id })
    }
}
