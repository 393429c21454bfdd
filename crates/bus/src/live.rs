//! What is worth seeing while it happens, and nothing after: lines of a log, and that events passed by.
//! Not stored: who is late reads the database and S3, or asks who writes ([`Live::follow_task_log`]).

use std::fmt;
use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, Subject, Subscriber};
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use mecapy_proto::{BuildId, TaskId};

use crate::{Bus, envelope};

/// Where who follows a task's log late asks for its beginning; the body is the task's id.
const TASK_LOG_SO_FAR: &str = "log.so-far.task";
/// Where in the log the text of a message begins; in an answer, where it ends.
const POSITION: &str = "Mecapy-Position";
/// Where the answers to all questions go.
const INBOX: &str = "_INBOX.";
/// Longer than a loaded machine takes. Without the beginning, the rest is shown.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Tells onlookers. Never waits, never fails the work that it tells of.
#[derive(Debug, Clone)]
pub struct Live {
    bus: Bus,
}

/// The live lines of one build or task.
#[derive(Debug, Clone)]
pub struct LiveLines {
    bus: Bus,
    subject: String,
}

impl Live {
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    pub fn build_log(&self, id: BuildId) -> LiveLines {
        LiveLines { bus: self.bus.clone(), subject: format!("log.build.{id}") }
    }

    pub fn task_log(&self, id: TaskId) -> LiveLines {
        LiveLines { bus: self.bus.clone(), subject: format!("log.task.{id}") }
    }

    /// The subjects of events as they pass by, with the id of what they are about. Some may be missed:
    /// a hint to look, not the truth.
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = (String, String)> + Send + use<>, crate::Error> {
        let (builds, scans, pushes, tasks) = (
            subscribe(&self.bus, "build.*").await?,
            subscribe(&self.bus, "scan.*").await?,
            subscribe(&self.bus, "push.*").await?,
            subscribe(&self.bus, "task.*").await?,
        );
        let all = futures::stream::select(
            futures::stream::select(builds, scans),
            futures::stream::select(pushes, tasks),
        );
        Ok(all.map(|message| {
            let entity =
                crate::envelope::get(message.headers.as_ref(), "ce-subject").unwrap_or_default();
            // task.done has the attempt after the task's id.
            let entity = entity.split('/').next().unwrap_or_default().to_owned();
            (message.subject.to_string(), entity)
        }))
    }

    /// Images as they are published: a hint to fetch them early.
    pub async fn published_images(
        &self,
    ) -> Result<impl Stream<Item = mecapy_proto::v1::PushDone> + Send + use<>, crate::Error> {
        let subscriber = subscribe(&self.bus, "push.done").await?;
        Ok(subscriber.filter_map(|message| async move {
            crate::envelope::read(message.headers.as_ref(), &message.payload, chrono::Utc::now())
                .ok()
        }))
    }

    /// Who follows a task's log and was not there at its beginning. One who has that task answers.
    pub async fn late_followers(
        &self,
    ) -> Result<impl Stream<Item = LateFollower> + Send + use<>, crate::Error> {
        let subscriber = subscribe(&self.bus, TASK_LOG_SO_FAR).await?;
        let bus = self.bus.clone();
        Ok(subscriber.filter_map(move |message| {
            let follower = LateFollower::read(&bus, message);
            async move { follower }
        }))
    }

    /// The text of a task's log after what was told already. A part of it may have been written before: who has the task
    /// is asked for that.
    pub async fn follow_task_log(
        &self,
        id: TaskId,
        told: Position,
    ) -> Result<impl Stream<Item = Words> + Send + use<>, crate::Error> {
        // Before the question, so that nothing is lost between the two.
        let words = subscribe(&self.bus, &self.task_log(id).subject).await?;
        let follow = Follow { words, beginning: Some(self.so_far(id).boxed()), next: None, told };
        Ok(stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) }))
    }

    /// What was written so far. None: nobody has the task.
    fn so_far(&self, id: TaskId) -> impl Future<Output = Option<Message>> + Send + use<> {
        let client = self.bus.client.clone();
        let question = Request::new().payload(id.to_string().into()).timeout(Some(ANSWER_WITHIN));
        async move { client.send_request(TASK_LOG_SO_FAR, question).await.ok() }
    }

    /// Ids of tasks that are to be cancelled, as they come.
    pub async fn cancelled_tasks(
        &self,
    ) -> Result<impl Stream<Item = TaskId> + Send + use<>, crate::Error> {
        let subscriber = subscribe(&self.bus, "task.cancel").await?;
        Ok(subscriber.filter_map(|message| async move {
            crate::envelope::read::<mecapy_proto::v1::TaskCancel>(
                message.headers.as_ref(),
                &message.payload,
                chrono::Utc::now(),
            )
            .ok()
            .and_then(|event| event.task_id.parse().ok())
        }))
    }
}

/// A place in a task's log. Each attempt has a log of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub attempt: u32,
    /// How many there are before it.
    pub bytes: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.attempt, self.bytes)
    }
}

impl Position {
    /// As it is shown.
    pub fn parse(text: &str) -> Option<Self> {
        let (attempt, bytes) = text.split_once('-')?;
        Some(Self { attempt: attempt.parse().ok()?, bytes: bytes.parse().ok()? })
    }

    fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(POSITION, self.to_string());
        headers
    }
}

/// One who asks for what was written of a task's log so far.
#[derive(Debug)]
pub struct LateFollower {
    pub task: TaskId,
    bus: Bus,
    answer_to: Subject,
}

impl LateFollower {
    fn read(bus: &Bus, message: Message) -> Option<Self> {
        let task = std::str::from_utf8(&message.payload).ok()?.parse().ok()?;
        // Nowhere else does who asks listen: what a function wrote is not to be sent where events are read.
        let answer_to = message.reply.filter(|reply| reply.starts_with(INBOX))?;
        Some(Self { task, bus: bus.clone(), answer_to })
    }

    /// `text` is the last of what was written up to there.
    pub async fn answer(self, text: String, end: Position) {
        let (to, headers) = (self.answer_to, end.headers());
        let _ = self.bus.client.publish_with_headers(to, headers, text.into()).await;
    }
}

/// Some text of a log that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    pub text: String,
    /// Where it ends. None: who writes it does not count.
    pub end: Option<Position>,
}

impl LiveLines {
    /// Sends some text: one line or more.
    pub async fn send(&self, text: String) {
        let _ = self.bus.client.publish(self.subject.clone(), text.into()).await;
    }

    /// Sends some text that begins there.
    pub async fn send_at(&self, begin: Position, text: String) {
        let (to, headers) = (self.subject.clone(), begin.headers());
        let _ = self.bus.client.publish_with_headers(to, headers, text.into()).await;
    }

    /// The text as it comes.
    pub async fn subscribe(
        &self,
    ) -> Result<impl Stream<Item = String> + Send + use<>, crate::Error> {
        let subscriber = subscribe(&self.bus, &self.subject).await?;
        Ok(subscriber.map(|message| text_of(&message)))
    }
}

/// One who follows a task's log.
struct Follow {
    words: Subscriber,
    /// The answer to what was written before, until it is there.
    beginning: Option<BoxFuture<'static, Option<Message>>>,
    /// What came before that answer.
    next: Option<Message>,
    /// Up to where it was told.
    told: Position,
}

impl Follow {
    async fn next(&mut self) -> Option<Words> {
        loop {
            let new = match self.beginning.take() {
                None => {
                    let message = match self.next.take() {
                        Some(message) => message,
                        None => self.words.next().await?,
                    };
                    self.go_on(&message)
                }
                Some(mut beginning) => tokio::select! {
                    biased;
                    answer = &mut beginning => answer.and_then(|answer| self.begin(&answer)),
                    message = self.words.next() => {
                        let message = message?;
                        if self.misses_something_before(&message) {
                            let answer = beginning.await;
                            self.next = Some(message);
                            answer.and_then(|answer| self.begin(&answer))
                        } else {
                            self.beginning = Some(beginning);
                            self.go_on(&message)
                        }
                    }
                },
            };
            if new.is_some() {
                return new;
            }
        }
    }

    fn misses_something_before(&self, message: &Message) -> bool {
        position_of(message).is_some_and(|begin| begin.bytes > self.told_of(begin.attempt))
    }

    fn told_of(&self, attempt: u32) -> u64 {
        if attempt == self.told.attempt { self.told.bytes } else { 0 }
    }

    fn begin(&mut self, answer: &Message) -> Option<Words> {
        let (mut begin, text) = (position_of(answer)?, text_of(answer));
        begin.bytes = begin.bytes.saturating_sub(text.len() as u64);
        let missing = begin.bytes.saturating_sub(self.told_of(begin.attempt));
        let mut words = self.tell(begin, text)?;
        if missing > 0 {
            let note = format!("[... {missing} bytes before this; the log has them ...]\n");
            words.text.insert_str(0, &note);
        }
        Some(words)
    }

    fn go_on(&mut self, message: &Message) -> Option<Words> {
        let text = text_of(message);
        match position_of(message) {
            Some(begin) => self.tell(begin, text),
            None => Some(Words { text, end: None }),
        }
    }

    /// What is new of a text that begins there. Of an attempt that was overtaken nothing is.
    fn tell(&mut self, begin: Position, mut text: String) -> Option<Words> {
        let known = self.told_of(begin.attempt).saturating_sub(begin.bytes);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        if begin.attempt < self.told.attempt || known >= text.len() {
            return None;
        }
        let end = Position { bytes: begin.bytes.saturating_add(text.len() as u64), ..begin };
        // Pieces end between characters; somebody else's number may not.
        if text.is_char_boundary(known) {
            text.drain(..known);
        }
        self.told = end;
        Some(Words { text, end: Some(end) })
    }
}

fn position_of(message: &Message) -> Option<Position> {
    Position::parse(envelope::get(message.headers.as_ref(), POSITION)?)
}

fn text_of(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

async fn subscribe(bus: &Bus, subject: &str) -> Result<Subscriber, crate::Error> {
    let subject = subject.to_owned();
    bus.client
        .subscribe(subject.clone())
        .await
        .map_err(|error| crate::Error::jetstream(subject, error))
}
