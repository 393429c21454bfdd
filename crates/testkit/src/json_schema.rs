//! Documents against the JSON schemas of their formats.

use boon::{Compiler, SchemaIndex, Schemas, ValidationError};
use serde_json::Value;

/// A schema with those that it refers to.
pub struct JsonSchema {
    schemas: Schemas,
    root: SchemaIndex,
}

impl JsonSchema {
    /// Of the first of these, each with its address.
    pub fn new(resources: &[(impl AsRef<str>, Value)]) -> Self {
        let mut compiler = Compiler::new();
        for (address, schema) in resources {
            compiler.add_resource(address.as_ref(), schema.clone()).expect("it is a schema");
        }
        let mut schemas = Schemas::new();
        let address = resources.first().expect("there is a schema").0.as_ref();
        match compiler.compile(address, &mut schemas) {
            Ok(root) => Self { schemas, root },
            Err(error) => panic!("{address}: {error:#}"),
        }
    }

    /// Where the document is wrong, and how.
    pub fn problems(&self, document: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = self.schemas.validate(document, self.root) {
            leaves(&error, &mut problems);
        }
        problems
    }
}

/// What is above them only says that something below is wrong.
fn leaves(error: &ValidationError<'_, '_>, problems: &mut Vec<String>) {
    if error.causes.is_empty() {
        problems.push(format!("{}: {}", error.instance_location, error.kind));
    }
    for cause in &error.causes {
        leaves(cause, problems);
    }
}
