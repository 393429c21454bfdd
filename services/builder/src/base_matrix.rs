//! `base.requested` in, a run and one `base.build` for each cell of the matrix out.

use std::collections::BTreeSet;

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::BuildId;
use mecapy_proto::v1::{BaseBuild, BaseRequested};
use mecapy_store::bases;
use uuid::Uuid;

use crate::base_options::BaseOptions;
use crate::options::is_variant;
use crate::validation::python_version;

/// More is a mistake.
const MAX_CELLS: usize = 100;
const MAX_RUN_ID: usize = 100;
const REASONS: [&str; 3] = ["manual", "push", "schedule"];
/// Under which the ids of cells are made; another would make every cell another build.
const CELLS: Uuid = Uuid::from_u128(0x8f64_2b0c_6d0e_4b57_9a53_1d2c_77b0_e4a1);

/// One base image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// "3.11"
    pub python: String,
    /// "slim"
    pub variant: String,
}

impl Cell {
    /// Both are part of tags and of paths.
    pub fn new(python: &str, variant: &str) -> Result<Self, String> {
        if python_version(python).is_none() {
            return Err(format!("{python:?} is not one of 3.9 to 3.14"));
        }
        if !is_variant(variant) {
            return Err(format!("{variant:?} is not made of a-z and 0-9"));
        }
        Ok(Self { python: python.to_owned(), variant: variant.to_owned() })
    }

    /// "3.11-slim": its name, and the tag that leads to its newest image.
    pub fn base(&self) -> String {
        format!("{}-{}", self.python, self.variant)
    }

    /// The same for every delivery and replica.
    fn build_id(&self, run: &str) -> BuildId {
        BuildId::from_uuid(Uuid::new_v5(&CELLS, format!("{run}/{}", self.base()).as_bytes()))
    }
}

/// The cells that a request asks for, each once; what it leaves out is as configured.
pub fn cells(event: &BaseRequested, options: &BaseOptions) -> Result<BTreeSet<Cell>, String> {
    fn or_configured<'a>(asked: &'a [String], configured: &'a [String]) -> &'a [String] {
        if asked.is_empty() { configured } else { asked }
    }
    let pythons = or_configured(&event.python_versions, &options.python_versions);
    let variants = or_configured(&event.variants, &options.variants);
    if pythons.len().saturating_mul(variants.len()) > MAX_CELLS {
        return Err(format!("the matrix has more than {MAX_CELLS} images"));
    }
    let cells: BTreeSet<Cell> = pythons
        .iter()
        .flat_map(|python| variants.iter().map(move |variant| Cell::new(python, variant)))
        .collect::<Result<_, _>>()?;
    if cells.is_empty() {
        return Err("the matrix is empty: builder.base has no Pythons or no variants".to_owned());
    }
    Ok(cells)
}

/// The handler of `base.requested`.
#[derive(Debug, Clone)]
pub struct BaseMatrix {
    pub options: BaseOptions,
}

impl Handler<BaseRequested> for BaseMatrix {
    async fn handle(&self, event: BaseRequested, _: &Delivery) -> Result<Outcome, HandlerError> {
        let is_id = (1..=MAX_RUN_ID).contains(&event.run_id.len())
            && event.run_id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if !is_id {
            return Err(HandlerError::permanent(format!(
                "run_id must be 1 to {MAX_RUN_ID} of A-Z a-z 0-9 - _ . :, not {:?}",
                event.run_id
            )));
        }
        let reason = if event.reason.is_empty() { REASONS[0] } else { &event.reason };
        if !REASONS.contains(&reason) {
            return Err(HandlerError::permanent(format!(
                "the reason must be one of {}, not {reason:?}",
                REASONS.join(", ")
            )));
        }
        let cells = cells(&event, &self.options).map_err(HandlerError::permanent)?;
        tracing::info!(
            run.id = event.run_id,
            reason,
            cells = cells.len(),
            "base images are requested"
        );

        let reason = reason.to_owned();
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                let run = &event.run_id;
                let rows: Vec<_> =
                    cells.iter().map(|cell| (cell.build_id(run), cell.base())).collect();
                if !bases::create_run(conn, run, &reason, &rows).await? {
                    return Ok(Outgoing::none());
                }
                let events = cells.into_iter().map(|cell| BaseBuild {
                    run_id: run.clone(),
                    build_id: cell.build_id(run).to_string(),
                    python_version: cell.python,
                    variant: cell.variant,
                });
                Ok(events.fold(Outgoing::none(), |outgoing, event| outgoing.and(&event)))
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pythons: &[&str], variants: &[&str]) -> Result<Vec<String>, String> {
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let event = BaseRequested {
            python_versions: strings(pythons),
            variants: strings(variants),
            ..Default::default()
        };
        let cells = cells(&event, &BaseOptions::default())?;
        Ok(cells.iter().map(Cell::base).collect())
    }

    #[test]
    fn what_a_request_leaves_out_is_as_configured() {
        assert_eq!(named(&[], &[]).unwrap().len(), 6);
        assert_eq!(named(&["3.13"], &["slim"]).unwrap(), ["3.13-slim"]);
        assert_eq!(named(&[], &["slim"]).unwrap(), ["3.11-slim", "3.12-slim"]);
        assert_eq!(named(&["3.11", "3.11"], &["slim", "slim"]).unwrap(), ["3.11-slim"]);
    }

    #[test]
    fn what_can_be_no_image_is_refused() {
        for (pythons, variants) in [
            (&["3.11; x"][..], &["slim"][..]),
            (&["2.7"], &["slim"]),
            (&["3.11"], &["../../etc"]),
            (&["3.11"], &[""]),
        ] {
            assert!(named(pythons, variants).is_err(), "{pythons:?} {variants:?}");
        }
        let many: Vec<String> = (0..200).map(|i| format!("v{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(named(&["3.11"], &many).unwrap_err().contains("more than 100"));
    }

    #[test]
    fn a_cell_is_the_same_build_wherever_it_is_asked_for() {
        let cell = Cell::new("3.11", "slim").unwrap();
        assert_eq!(cell.build_id("r"), cell.build_id("r"));
        assert_ne!(cell.build_id("r"), cell.build_id("s"));
        assert_ne!(cell.build_id("r"), Cell::new("3.11", "numpy").unwrap().build_id("r"));
    }
}
