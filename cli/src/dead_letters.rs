//! `mecapy dlq`.

use mecapy_bus::Bus;
use mecapy_bus::dead_letters::{self, DeadLetter};

use crate::arguments::{Dlq, Letters};
use crate::exit::{Exit, Stop};
use crate::servers::Servers;
use crate::session::Session;
use crate::terminal::fields;
use crate::{json, table};

const PAGE_SIZE: usize = 500;

pub async fn run(command: Dlq, session: &Session) -> anyhow::Result<Exit> {
    let bus = Servers::read(session.config.as_deref())?.bus().await?;
    match command {
        Dlq::List { limit, after } => {
            let letters = dead_letters::list(&bus, after, limit).await?;
            session.output.show(&serde_json::to_string(&letters)?, || overview(&letters));
            Ok(Exit::Done)
        }
        Dlq::Show { id } => {
            let letter = dead_letters::get(&bus, id).await?.ok_or_else(|| missing(&[id]))?;
            session.output.show(&serde_json::to_string(&letter)?, || describe(&letter));
            Ok(Exit::Done)
        }
        Dlq::Replay(letters) => each(&bus, letters, session, Action::Replay).await,
        Dlq::Drop(letters) => each(&bus, letters, session, Action::Drop).await,
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Replay,
    Drop,
}

impl Action {
    async fn apply(self, bus: &Bus, id: u64) -> Result<bool, mecapy_bus::Error> {
        match self {
            Self::Replay => dead_letters::replay(bus, id).await,
            Self::Drop => dead_letters::drop_letter(bus, id).await,
        }
    }

    fn question(self, number: usize) -> String {
        match self {
            Self::Replay => format!("Send all {number} dead letters again?"),
            Self::Drop => format!("Drop all {number} dead letters for good?"),
        }
    }

    const fn past(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop => "dropped",
        }
    }
}

async fn each(
    bus: &Bus,
    letters: Letters,
    session: &Session,
    action: Action,
) -> anyhow::Result<Exit> {
    let ids = if letters.all {
        // Those that are there now: what fails again comes back as a new one, and is not sent in circles.
        let ids = all(bus).await?;
        if !ids.is_empty() {
            session.confirm(&action.question(ids.len()), letters.confirm)?;
        }
        ids
    } else {
        letters.ids
    };
    let (mut done, mut not_there) = (Vec::new(), Vec::new());
    let mut failed = None;
    for id in ids {
        match action.apply(bus, id).await {
            Ok(true) => done.push(id),
            Ok(false) => not_there.push(id),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let past = action.past();
    let raw = serde_json::json!({ past: done, "not_found": not_there, "error": failed.as_ref().map(mecapy_bus::Error::to_string) });
    if session.output.is_json() {
        session.output.show(&raw.to_string(), String::new);
    } else {
        session.output.show("", || format!("{past}: {}", done.len()));
    }
    let problem: anyhow::Error = match failed {
        Some(error) => error.into(),
        // With --all, somebody else was faster: what was wanted is so.
        None if !letters.all && !not_there.is_empty() => missing(&not_there).into(),
        None => return Ok(Exit::Done),
    };
    session.output.note(&format!("error: {problem:#}"));
    Ok(Exit::of(&problem))
}

async fn all(bus: &Bus) -> Result<Vec<u64>, mecapy_bus::Error> {
    let mut ids = Vec::new();
    loop {
        let page =
            dead_letters::list(bus, ids.last().copied().unwrap_or_default(), PAGE_SIZE).await?;
        ids.extend(page.iter().map(|letter| letter.id));
        if page.len() < PAGE_SIZE {
            return Ok(ids);
        }
    }
}

fn missing(ids: &[u64]) -> Stop {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    Stop::NotFound(format!("there is no dead letter {}", ids.join(", ")))
}

fn overview(letters: &[DeadLetter]) -> String {
    if letters.is_empty() {
        return "There are no dead letters.".to_owned();
    }
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            vec![
                letter.id.to_string(),
                letter.at.clone(),
                letter.subject.clone(),
                letter.service.clone(),
                letter.deliveries.to_string(),
                letter.reason.clone(),
            ]
        })
        .collect();
    table::render(&["id", "at", "subject", "service", "deliveries", "reason"], &rows)
}

fn describe(letter: &DeadLetter) -> String {
    let mut rows = vec![
        ("dead letter", letter.id.to_string()),
        ("at", letter.at.clone()),
        ("subject", letter.subject.clone()),
        ("service", letter.service.clone()),
        ("consumer", letter.consumer.clone()),
        ("deliveries", letter.deliveries.to_string()),
        ("reason", letter.reason.clone()),
    ];
    rows.extend(letter.traceparent.clone().map(|trace| ("trace", trace)));
    format!("{}\n{}", fields(&rows), json::pretty(&letter.body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            id: 3,
            subject: "build.requested".into(),
            reason: "the body is not \u{1b}[31mprotobuf".into(),
            deliveries: 1,
            service: "builder".into(),
            consumer: "builder".into(),
            traceparent: None,
            at: "2026-01-01T00:00:00Z".into(),
            body: serde_json::json!("\u{1b}[2Jx"),
        }
    }

    #[test]
    fn a_dead_letter_is_shown_with_its_body_and_cannot_touch_the_terminal() {
        let text = describe(&letter());
        assert!(text.ends_with("\n\"\\u001b[2Jx\""), "{text}");
        assert!(overview(&[letter()]).contains("the body is not protobuf"));
        assert_eq!(overview(&[]), "There are no dead letters.");
    }
}
