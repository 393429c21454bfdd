//! What is shown on standard error while a command waits.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::{Output, clean_line};

/// The stages of a build, as its states name them.
pub const BUILD: &[&str] = &["queued", "building", "scanning", "publishing", "ready"];
/// A task's: it has no end that is known ahead.
pub const TASK: &[&str] = &[];
/// Nor has what a worker has in hand.
pub const WORKER: &[&str] = &[];

const TICK: Duration = Duration::from_millis(120);

#[derive(Debug)]
pub struct Progress {
    shape: Shape,
    stages: &'static [&'static str],
    stage: Option<String>,
    output: Output,
}

#[derive(Debug)]
enum Shape {
    /// On a terminal: a bar that is redrawn, with log lines above it.
    Bar(ProgressBar),
    /// Elsewhere: a line for each thing.
    Lines,
    Silent,
}

impl Progress {
    pub fn new(output: Output, quiet: bool, stages: &'static [&'static str]) -> Self {
        let shape = if quiet {
            Shape::Silent
        } else if std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        {
            bar(stages).map_or(Shape::Lines, Shape::Bar)
        } else {
            Shape::Lines
        };
        Self { shape, stages, stage: None, output }
    }

    /// Where it stands; told twice, it is shown once.
    pub fn stage(&mut self, stage: &str) {
        let stage = clean_line(stage);
        if self.stage.as_deref() == Some(&stage) {
            return;
        }
        match &self.shape {
            Shape::Bar(bar) => {
                if let Some(position) = position(self.stages, &stage) {
                    bar.set_position(position);
                }
                bar.set_message(stage.clone());
            }
            Shape::Lines => self.output.note(&stage),
            Shape::Silent => {}
        }
        self.stage = Some(stage);
    }

    /// Lines of a log.
    pub fn log(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("  {}", clean_line(line)));
        }
    }

    /// Something worth knowing that is neither.
    pub fn note(&self, text: &str) {
        self.line(&clean_line(text));
    }

    fn line(&self, line: &str) {
        match &self.shape {
            Shape::Bar(bar) => bar.println(line),
            Shape::Lines => self.output.note(line),
            Shape::Silent => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }
}

fn bar(stages: &[&str]) -> Option<ProgressBar> {
    let template = if stages.is_empty() {
        "{spinner:.cyan} {msg} {elapsed:.dim}"
    } else {
        "{spinner:.cyan} {bar:12.cyan} {msg} {elapsed:.dim}"
    };
    let style = ProgressStyle::with_template(template).ok()?.progress_chars("━╸─");
    let last = u64::try_from(stages.len().saturating_sub(1)).ok()?;
    let bar =
        ProgressBar::with_draw_target(Some(last), ProgressDrawTarget::stderr()).with_style(style);
    bar.set_message("waiting");
    bar.enable_steady_tick(TICK);
    Some(bar)
}

/// How far along a stage is; none for one that is not on the way.
fn position(stages: &[&str], stage: &str) -> Option<u64> {
    stages.iter().position(|known| *known == stage).and_then(|index| u64::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_moves_with_the_states_of_a_build() {
        let along: Vec<Option<u64>> = BUILD.iter().map(|stage| position(BUILD, stage)).collect();
        assert_eq!(along, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(position(BUILD, "rejected"), None);
        assert!(bar(BUILD).is_some() && bar(TASK).is_some());
    }
}
