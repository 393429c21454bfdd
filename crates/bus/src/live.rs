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
/// On the message, or answer, after which an attempt's log has no more.
const LAST: &str = "Mecapy-Last";
/// Where the answers to all questions go.
const INBOX: &str = "_INBOX.";
/// Longer than a loaded machine takes. Without the answer, a note says what is missing.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Tells onlookers. Never waits, never fails the work that it tells of.
#[derive(Debug, Clone)]
pub struct Live {
    bus: Bus,
    answer_within: Duration,
}

/// The live lines of one build or task.
#[derive(Debug, Clone)]
pub struct LiveLines {
    bus: Bus,
    subject: String,
}

impl Live {
    pub fn new(bus: Bus) -> Self {
        Self { bus, answer_within: ANSWER_WITHIN }
    }

    /// Who has a task may take so long to say what was written of its log.
    #[must_use]
    pub fn with_answers_within(self, answer_within: Duration) -> Self {
        Self { answer_within, ..self }
    }

    pub fn answer_within(&self) -> Duration {
        self.answer_within
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

    /// The text of a task's log after what was told already, each piece once. A part of it may have been written before,
    /// or get lost on its way: who has the task is asked for that, and what it can't give is told by a note.
    pub async fn follow_task_log(
        &self,
        id: TaskId,
        told: Position,
    ) -> Result<impl Stream<Item = Words> + Send + use<>, crate::Error> {
        // Before the question, so that nothing is lost between the two.
        let words = subscribe(&self.bus, &self.task_log(id).subject).await?;
        let answer = Some(self.so_far(id, told));
        let follow = Follow { live: self.clone(), id, words, answer, held: None, told };
        Ok(stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) }))
    }

    /// What was written so far, of no earlier attempt than what was told. None: nobody has the task.
    fn so_far(&self, id: TaskId, told: Position) -> Answer {
        let (client, within) = (self.bus.client.clone(), self.answer_within);
        let question = Request::new().payload(id.to_string().into()).headers(told.headers(false));
        let question = question.timeout(Some(within));
        async move { client.send_request(TASK_LOG_SO_FAR, question).await.ok() }.boxed()
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

    fn headers(self, is_last: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(POSITION, self.to_string());
        if is_last {
            headers.insert(LAST, "1");
        }
        headers
    }
}

/// One who asks for what was written of a task's log so far.
#[derive(Debug)]
pub struct LateFollower {
    pub task: TaskId,
    /// Of an earlier attempt it wants to know nothing.
    pub attempt: u32,
    bus: Bus,
    answer_to: Subject,
}

impl LateFollower {
    fn read(bus: &Bus, message: Message) -> Option<Self> {
        let task = std::str::from_utf8(&message.payload).ok()?.parse().ok()?;
        let attempt = position_of(&message).unwrap_or_default().attempt;
        // Nowhere else does who asks listen: what a function wrote is not to be sent where events are read.
        let answer_to = message.reply.filter(|reply| reply.starts_with(INBOX))?;
        Some(Self { task, attempt, bus: bus.clone(), answer_to })
    }

    /// `text` is the last of what was written up to there, after which there may be no more to come.
    pub async fn answer(self, text: String, end: Position, is_last: bool) {
        let (to, headers) = (self.answer_to, end.headers(is_last));
        let _ = self.bus.client.publish_with_headers(to, headers, text.into()).await;
    }
}

/// Some text of a log that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// Of the last it may be empty.
    pub text: String,
    /// Where it ends. None: who writes it does not count.
    pub end: Option<Position>,
    /// The log of this attempt has no more.
    pub is_last: bool,
}

impl LiveLines {
    /// Sends some text: one line or more.
    pub async fn send(&self, text: String) {
        let _ = self.bus.client.publish(self.subject.clone(), text.into()).await;
    }

    /// Sends some text that begins there.
    pub async fn send_at(&self, begin: Position, text: String) {
        self.send_with(begin.headers(false), text).await;
    }

    /// Sends the last text of an attempt, which may be none, so that who follows it knows that nothing is missing.
    pub async fn send_last_at(&self, begin: Position, text: String) {
        self.send_with(begin.headers(true), text).await;
    }

    async fn send_with(&self, headers: HeaderMap, text: String) {
        let to = self.subject.clone();
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

type Answer = BoxFuture<'static, Option<Message>>;

/// One who follows a task's log.
struct Follow {
    live: Live,
    id: TaskId,
    words: Subscriber,
    /// What was written before, until it is there.
    answer: Option<Answer>,
    /// It comes after what is missing, for which was asked.
    held: Option<Message>,
    /// Up to where it was told.
    told: Position,
}

impl Follow {
    async fn next(&mut self) -> Option<Words> {
        loop {
            let new = if let Some(message) = self.held.take() {
                // What is still missing is so for good.
                self.go_on(&message)
            } else if let Some(mut answer) = self.answer.take() {
                tokio::select! {
                    biased;
                    answer = &mut answer => answer.and_then(|answer| self.begin(&answer)),
                    message = self.words.next() => {
                        let message = message?;
                        if self.misses_something_before(&message) {
                            self.held = Some(message);
                            answer.await.and_then(|answer| self.begin(&answer))
                        } else {
                            self.answer = Some(answer);
                            self.go_on(&message)
                        }
                    }
                }
            } else {
                let message = self.words.next().await?;
                if self.misses_something_before(&message) {
                    // Lost on its way, as where this end was slow; or a new attempt's, of which the beginning was missed.
                    let attempt = position_of(&message).unwrap_or_default().attempt;
                    let told = Position { attempt, bytes: self.told_of(attempt) };
                    self.held = Some(message);
                    let answer = self.live.so_far(self.id, told).await;
                    answer.and_then(|answer| self.begin(&answer))
                } else {
                    self.go_on(&message)
                }
            };
            if new.is_some() {
                return new;
            }
        }
    }

    fn misses_something_before(&self, message: &Message) -> bool {
        position_of(message).is_some_and(|begin| {
            begin.attempt >= self.told.attempt && begin.bytes > self.told_of(begin.attempt)
        })
    }

    fn told_of(&self, attempt: u32) -> u64 {
        if attempt == self.told.attempt { self.told.bytes } else { 0 }
    }

    fn begin(&mut self, answer: &Message) -> Option<Words> {
        let (mut begin, text) = (position_of(answer)?, text_of(answer));
        begin.bytes = begin.bytes.saturating_sub(text.len() as u64);
        self.tell(begin, text, is_last(answer))
    }

    fn go_on(&mut self, message: &Message) -> Option<Words> {
        let text = text_of(message);
        match position_of(message) {
            Some(begin) => self.tell(begin, text, is_last(message)),
            None => Some(Words { text, end: None, is_last: false }),
        }
    }

    /// What is new of a text that begins there, with a note where something before it is missing. Of an attempt that
    /// was overtaken nothing is.
    fn tell(&mut self, begin: Position, mut text: String, is_last: bool) -> Option<Words> {
        if begin.attempt < self.told.attempt {
            return None;
        }
        let told = self.told_of(begin.attempt);
        let end = begin.bytes.saturating_add(text.len() as u64).max(told);
        let known = usize::try_from(told.saturating_sub(begin.bytes)).unwrap_or(usize::MAX);
        let known = known.min(text.len());
        // Pieces end between characters; somebody else's number may not.
        if text.is_char_boundary(known) {
            text.drain(..known);
        }
        if text.is_empty() && !is_last {
            return None;
        }
        let missing = begin.bytes.saturating_sub(told);
        if missing > 0 {
            // What was told before it may have ended within a line.
            let line_end = if told > 0 { "\n" } else { "" };
            let note =
                format!("{line_end}[... {missing} bytes before this; the log has them ...]\n");
            text.insert_str(0, &note);
        }
        let end = Position { bytes: end, ..begin };
        self.told = end;
        Some(Words { text, end: Some(end), is_last })
    }
}

fn is_last(message: &Message) -> bool {
    envelope::get(message.headers.as_ref(), LAST).is_some()
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
