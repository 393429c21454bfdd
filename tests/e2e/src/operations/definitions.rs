//! The metrics of each crate, as its `metric_definitions.rs` says them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::root;

const FILE: &str = "metric_definitions.rs";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Counter, Self::Gauge, Self::Histogram];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric: how it is described, and with which labels it is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its folder: `crates/bus`, `services/worker`.
    pub of: String,
    pub name: String,
    pub kind: Kind,
    /// As `metrics::Unit` has it, in lower case.
    pub unit: String,
    pub labels: BTreeSet<String>,
    /// What it tells.
    pub help: String,
}

/// Every metric, by crate and in the order in which it is described. What is counted and not described, described and
/// not counted, or defined twice is an error.
pub fn definitions() -> Result<Vec<Definition>> {
    let root = root();
    let mut all: Vec<Definition> = Vec::new();
    for path in sources(&root)? {
        if path.file_name().is_none_or(|name| name != FILE) {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let of = path.strip_prefix(&root)?.components().take(2).collect::<PathBuf>();
        let of = of.display().to_string();
        for definition in of_file(&of, &text).with_context(|| path.display().to_string())? {
            if let Some(other) = all.iter().find(|other| other.name == definition.name) {
                bail!("{} is defined in {} and in {}", definition.name, other.of, definition.of);
            }
            all.push(definition);
        }
    }
    Ok(all)
}

/// Where something is counted outside of the files for it.
pub fn strays() -> Result<Vec<String>> {
    let root = root();
    let mut strays = Vec::new();
    for path in sources(&root)? {
        let text = std::fs::read_to_string(&path)?;
        // What tests count is theirs.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_the_file = path.file_name().is_some_and(|name| name == FILE);
        if !is_the_file && Kind::ALL.iter().any(|kind| !calls(text, kind.as_str()).is_empty()) {
            strays.push(path.strip_prefix(&root)?.display().to_string());
        }
    }
    Ok(strays)
}

/// The tables of `docs/metrics.md`.
pub fn documentation(definitions: &[Definition]) -> String {
    let mut text = String::new();
    let mut of = "";
    for definition in definitions {
        if definition.of != of {
            of = &definition.of;
            let _ = write!(
                text,
                "\n## {of}\n\n| metric | type | unit | labels | what it tells |\n|---|---|---|---|---|\n"
            );
        }
        let labels: Vec<&str> = definition.labels.iter().map(String::as_str).collect();
        let Definition { name, kind, unit, help, .. } = definition;
        let (kind, labels) = (kind.as_str(), labels.join(", "));
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {labels} | {help} |");
    }
    text
}

/// The code of crates and services, without their tests.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for group in ["crates", "services"] {
        for entry in std::fs::read_dir(root.join(group))? {
            let source = entry?.path().join("src");
            if source.is_dir() {
                collect(&source, &mut found)?;
            }
        }
    }
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn of_file(of: &str, text: &str) -> Result<Vec<Definition>> {
    let mut definitions = Vec::new();
    let mut counted: BTreeMap<String, (Kind, BTreeSet<String>)> = BTreeMap::new();
    for kind in Kind::ALL {
        for call in calls(text, kind.as_str()) {
            let mut literals = literals(call).into_iter();
            let name = literals.next().context("a metric without a name")?.0;
            let labels = literals.filter(|(_, is_label)| *is_label).map(|(label, _)| label);
            let entry = counted.entry(name.clone()).or_insert_with(|| (kind, BTreeSet::new()));
            if entry.0 != kind {
                bail!("{name} is a {} and a {}", entry.0.as_str(), kind.as_str());
            }
            entry.1.extend(labels);
        }
    }
    let mut described = Vec::new();
    for kind in Kind::ALL {
        for call in calls(text, &format!("describe_{}", kind.as_str())) {
            // Where it stands in the file: calls are parts of it.
            described.push((call.as_ptr() as usize, kind, call));
        }
    }
    described.sort_by_key(|(at, ..)| *at);
    for (_, kind, call) in described {
        let literals = literals(call);
        let [(name, _), (help, _)] = literals.as_slice() else {
            bail!("a description has a name, a unit and a text: {call}");
        };
        let unit = call.split_once("Unit::").context("a description has a unit")?.1;
        let unit: String = unit.chars().take_while(char::is_ascii_alphanumeric).collect();
        let Some((_, labels)) = counted.remove(name).filter(|(counted, _)| *counted == kind) else {
            bail!("{name} is described as a {} and not counted as one", kind.as_str());
        };
        definitions.push(Definition {
            of: of.to_owned(),
            name: name.clone(),
            kind,
            unit: unit.to_lowercase(),
            labels,
            help: help.clone(),
        });
    }
    if let Some(name) = counted.keys().next() {
        bail!("{name} is not described");
    }
    Ok(definitions)
}

/// What stands between the parentheses of each call of a macro.
fn calls<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let opening = format!("{name}!(");
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&opening) {
        let is_whole = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest = &text[at + opening.len()..];
        if is_whole && let Some(end) = closing(rest) {
            found.push(&rest[..end]);
        }
    }
    found
}

/// Where the parenthesis that is open closes.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut in_text, mut is_escaped) = (1, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_text => is_escaped = true,
            '"' => in_text = !in_text,
            '(' if !in_text => depth += 1,
            ')' if !in_text => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The texts of a call, and whether each is the name of a label.
fn literals(call: &str) -> Vec<(String, bool)> {
    let mut literals = Vec::new();
    let mut rest = call;
    while let Some((_, after)) = rest.split_once('"') {
        let Some((literal, after)) = after.split_once('"') else { break };
        literals.push((literal.to_owned(), after.trim_start().starts_with("=>")));
        rest = after;
    }
    literals
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        describe_counter!("a_total", Unit::Count, "Things (all of them)");
        describe_histogram!("b_seconds", Unit::Seconds, "How long");
        counter!("a_total", "what" => what.to_owned(), "how" => "x").increment(1);
        counter!("a_total", "what" => f(what)).increment(0);
        metrics::histogram!("b_seconds").record(1);
    "#;

    #[test]
    fn a_definition_is_a_description_and_what_is_counted() {
        let read = of_file("crates/x", FILE).unwrap();
        let table = documentation(&read);
        assert!(
            table.ends_with(
                "| `a_total` | counter | count | how, what | Things (all of them) |\n\
                 | `b_seconds` | histogram | seconds |  | How long |\n"
            ),
            "{table}"
        );
    }

    #[test]
    fn one_without_the_other_is_an_error() {
        for (gone, problem) in [
            ("describe_histogram!", "b_seconds is not described"),
            ("metrics::histogram!", "b_seconds is described as a histogram and not counted as one"),
        ] {
            let error = of_file("crates/x", &FILE.replace(gone, "other!")).unwrap_err();
            assert_eq!(error.to_string(), problem);
        }
    }
}
