//! What happens to a build or a task, as it happens.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::sse::{self, Parser};
use super::{Answer, Error, Function, Task, error};

/// The gateway says something at least every 15 s; a connection silent for this long is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum Event<T> {
    Status(String),
    /// One line or more of a build; of a task, what its function wrote.
    Log(String),
    /// The last one.
    Ended(Box<Answer<T>>),
}

pub type BuildEvent = Event<Function>;
pub type BuildEvents = Events<Function>;
pub type TaskEvent = Event<Task>;
pub type TaskEvents = Events<Task>;

#[derive(Deserialize)]
struct Status {
    status: String,
}

#[derive(Deserialize)]
struct Log {
    text: String,
}

pub struct Events<T> {
    chunks: BoxStream<'static, Result<Vec<u8>, reqwest::Error>>,
    is_event_stream: bool,
    parser: Parser,
    ready: VecDeque<sse::Event>,
    url: Url,
    last_id: String,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Events<T> {
    pub(super) fn new(answer: reqwest::Response, url: Url) -> Self {
        let is_event_stream = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("text/event-stream"));
        let chunks = answer.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec())).boxed();
        Self {
            chunks,
            is_event_stream,
            parser: Parser::default(),
            ready: VecDeque::new(),
            url,
            last_id: String::new(),
            of: PhantomData,
        }
    }

    /// The next event. A stream that ends or breaks off without the last event is an error that passes.
    pub async fn next(&mut self) -> Result<Event<T>, Error> {
        if !self.is_event_stream {
            return Err(self.not_ours("no stream of events".to_owned()));
        }
        loop {
            while let Some(event) = self.ready.pop_front() {
                let data = event.data;
                self.last_id = event.id;
                match event.name.as_str() {
                    "status" => return Ok(Event::Status(self.read::<Status>(&data)?.status)),
                    "log" => return Ok(Event::Log(self.read::<Log>(&data)?.text)),
                    "ended" => {
                        return Ok(Event::Ended(Box::new(Answer {
                            value: self.read(&data)?,
                            raw: data,
                        })));
                    }
                    // Of a newer gateway.
                    _ => {}
                }
            }
            let chunk = match tokio::time::timeout(SILENCE_LIMIT, self.chunks.next()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(error))) => return Err(self.unreachable(error::innermost(&error))),
                Ok(None) => {
                    return Err(self.unreachable("the stream of events ended early".to_owned()));
                }
                Err(_) => {
                    return Err(
                        self.unreachable(format!("silent for {} s", SILENCE_LIMIT.as_secs()))
                    );
                }
            };
            let events =
                self.parser.push(&chunk).map_err(|error| self.not_ours(error.to_string()))?;
            self.ready.extend(events);
        }
    }

    /// Of the last event that had an id, for who asks again. Empty: none had.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    fn read<D: DeserializeOwned>(&self, data: &str) -> Result<D, Error> {
        serde_json::from_str(data).map_err(|error| self.not_ours(error.to_string()))
    }

    fn unreachable(&self, cause: String) -> Error {
        Error::Unreachable { url: self.url.to_string(), cause, may_have_arrived: true }
    }

    fn not_ours(&self, cause: String) -> Error {
        Error::NotOurs { url: self.url.to_string(), cause }
    }
}
