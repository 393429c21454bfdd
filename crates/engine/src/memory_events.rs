//! The engine's word that the kernel killed in a container for want of memory.

use std::collections::HashMap;

use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt};

use crate::Engine;

impl Engine {
    /// Ids of containers in which it happened: of all containers from now on, or of one, with what the
    /// engine remembers of it. Ends when the engine can't tell.
    pub(crate) fn out_of_memory_events(
        &self,
        container: Option<&str>,
    ) -> impl Stream<Item = String> + use<> {
        let one = |value: &str| vec![value.to_owned()];
        let mut filters = HashMap::from([
            ("type".to_owned(), one("container")),
            ("event".to_owned(), one("oom")),
        ]);
        let mut options = EventsOptionsBuilder::default();
        if let Some(container) = container {
            filters.insert("container".to_owned(), one(container));
            // From the beginning of time: the engine gives what it still has.
            options = options.since("1");
        }
        self.docker
            .events(Some(options.filters(&filters).build()))
            .filter_map(|event| async { event.ok()?.actor?.id })
    }
}
