//! Schedules. Every replica has the same ticks, under the same names; whoever is late sends a duplicate.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::Cron;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

/// A long sleep is cut up, so that a clock that is set or a machine that slept does no harm.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// A cron expression of five fields, in UTC: `0 2 * * *`.
#[derive(Clone)]
pub struct Schedule(Cron);

impl Schedule {
    /// The first tick after `now`, if there is ever one.
    pub fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.0.find_next_occurrence(&now, false).ok()
    }

    /// Names a tick: `mirror-2025-10-04`, with the time where the day has more of them.
    pub fn tick_name(&self, prefix: &str, tick: DateTime<Utc>) -> String {
        match self.next(tick) {
            Some(next) if next.date_naive() == tick.date_naive() => {
                format!("{prefix}-{}", tick.format("%Y-%m-%dT%H-%M"))
            }
            _ => format!("{prefix}-{}", tick.format("%Y-%m-%d")),
        }
    }

    /// The first span of what comes of a tick, whatever goes on beside it.
    fn span(&self, tick: DateTime<Utc>) -> Span {
        tracing::info_span!(
            parent: None,
            "tick",
            schedule.expression = %self,
            schedule.tick = tick.to_rfc3339(),
        )
    }

    /// Calls `on_tick` at each tick, until `shutdown`. A tick that passes while one is handled is left out. What comes of
    /// a tick is a trace of its own, from here on.
    pub async fn run(
        &self,
        shutdown: &CancellationToken,
        mut on_tick: impl AsyncFnMut(DateTime<Utc>),
    ) {
        while let Some(tick) = self.next(Utc::now()) {
            while let Ok(wait) = (tick - Utc::now()).to_std() {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait.min(LOOK_EVERY)) => {}
                }
            }
            on_tick(tick).instrument(self.span(tick)).await;
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Cron::from_str(text).map(Self).map_err(|error| {
            format!("{text:?} is no cron expression (like \"0 2 * * *\"): {error}")
        })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_nightly_tick_is_named_by_its_day() {
        let schedule: Schedule = "0 2 * * *".parse().unwrap();
        let tick = schedule.next(at("2025-10-03T02:00:00Z")).unwrap();
        assert_eq!(tick, at("2025-10-04T02:00:00Z"));
        assert_eq!(schedule.tick_name("mirror", tick), "mirror-2025-10-04");
    }

    #[test]
    fn ticks_of_one_day_have_names_of_their_own() {
        let schedule: Schedule = "*/15 * * * *".parse().unwrap();
        let mut tick = at("2025-10-03T23:00:00Z");
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..100 {
            tick = schedule.next(tick).unwrap();
            assert!(names.insert(schedule.tick_name("mirror", tick)));
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        let error = "at two".parse::<Schedule>().unwrap_err();
        assert!(error.contains("0 2 * * *"), "{error}");
        let read = serde_json::from_str::<Schedule>("\"0 3 * * *\"").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"0 3 * * *\"");
    }

    #[test]
    fn a_tick_begins_a_trace() {
        use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
        use tracing_opentelemetry::OpenTelemetrySpanExt as _;
        use tracing_subscriber::layer::SubscriberExt as _;

        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let trace = |span: &Span| span.context().span().span_context().trace_id();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans), || {
            let schedule: Schedule = "0 2 * * *".parse().unwrap();
            let other = tracing::info_span!("something else");
            let ticks = other.in_scope(|| {
                [at("2025-10-04T02:00:00Z"), at("2025-10-05T02:00:00Z")].map(|at| schedule.span(at))
            });
            let sent = ticks[0].in_scope(|| tracing::info_span!("publish"));
            assert_eq!(trace(&sent), trace(&ticks[0]), "what comes of it is of its trace");
            assert_ne!(trace(&ticks[0]), trace(&other));
            assert_ne!(trace(&ticks[0]), trace(&ticks[1]));
        });
    }

    #[tokio::test]
    async fn a_schedule_ends_with_the_service() {
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let schedule: Schedule = "0 2 1 1 *".parse().unwrap();
        schedule.run(&shutdown, async |_| unreachable!()).await;
    }
}
