//! The dashboards of Grafana.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{files, root};

#[derive(Debug, Deserialize)]
pub struct Dashboard {
    pub uid: String,
    pub title: String,
    pub templating: Templating,
    pub panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
pub struct Templating {
    pub list: Vec<Variable>,
}

#[derive(Debug, Deserialize)]
pub struct Variable {
    pub name: String,
    pub query: VariableQuery,
}

#[derive(Debug, Deserialize)]
pub struct VariableQuery {
    pub query: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Panel {
    pub r#type: String,
    pub title: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub datasource: Datasource,
    #[serde(default)]
    pub field_config: FieldConfig,
    #[serde(default)]
    pub targets: Vec<Target>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Datasource {
    pub uid: String,
}

#[derive(Debug, Default, Deserialize)]
pub struct FieldConfig {
    pub defaults: Defaults,
}

#[derive(Debug, Default, Deserialize)]
pub struct Defaults {
    #[serde(default)]
    pub unit: String,
}

#[derive(Debug, Deserialize)]
pub struct Target {
    pub expr: String,
}

impl Dashboard {
    /// Those that show something: a row is a heading.
    pub fn shown(&self) -> impl Iterator<Item = &Panel> {
        self.panels.iter().filter(|panel| panel.r#type != "row")
    }

    /// Every query, with the panel that it is of.
    pub fn queries(&self) -> impl Iterator<Item = (&Panel, &str)> {
        self.shown()
            .flat_map(|panel| panel.targets.iter().map(move |target| (panel, target.expr.as_str())))
    }
}

pub fn dashboards() -> Result<Vec<Dashboard>> {
    let folder = root().join("deploy/compose/grafana/dashboards");
    files(&folder, "json")?.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Dashboard> {
    let text = std::fs::read_to_string(path)?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
