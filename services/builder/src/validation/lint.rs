//! Imports and calls that a function has no use for in its sandbox.

use std::collections::{BTreeMap, BTreeSet};

use mecapy_proto::ErrorCode;
use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, ExprCall, ModModule, Stmt};
use ruff_text_size::{Ranged, TextSize};

use super::Rules;
use super::syntax::at;
use crate::rejection::Rejection;

/// Modules that hold the builtins.
const BUILTINS: &[&str] = &["builtins", "__builtins__"];
/// Callables that import the module that their first argument names.
const IMPORTERS: &[&str] = &[
    "__import__",
    "builtins.__import__",
    "__builtins__.__import__",
    "importlib.import_module",
    "importlib.__import__",
];

/// Refuses the first forbidden import or call of the module.
pub fn check(source: &str, module: &ModModule, rules: &Rules) -> Result<(), Rejection> {
    let mut lint = Lint { rules, names: BTreeMap::new(), finding: None };
    lint.visit_body(&module.body);
    match lint.finding {
        None => Ok(()),
        Some(Finding { offset, code, what }) => Err(at(source, offset, code, &what)),
    }
}

struct Finding {
    offset: TextSize,
    code: ErrorCode,
    what: String,
}

struct Lint<'a> {
    rules: &'a Rules,
    /// What a name was imported as or assigned from: `e = eval`, `import importlib as i`.
    names: BTreeMap<String, String>,
    finding: Option<Finding>,
}

impl Lint<'_> {
    fn refuse(&mut self, offset: TextSize, code: ErrorCode, what: String) {
        self.finding.get_or_insert(Finding { offset, code, what });
    }

    fn check_module(&mut self, offset: TextSize, module: &str) {
        let within = |forbidden: &&String| {
            module
                .strip_prefix(forbidden.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(forbidden) = self.rules.forbidden_imports.iter().find(within) {
            let what = format!(
                "the module `{forbidden}` may not be imported: a function has no system to use it on"
            );
            self.refuse(offset, ErrorCode::ForbiddenImport, what);
        }
    }

    /// The dotted name that an expression stands for, through the names known so far.
    fn path(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Name(name) => Some(
                self.names.get(name.id.as_str()).cloned().unwrap_or_else(|| name.id.to_string()),
            ),
            Expr::Attribute(attribute) => {
                // `a.b.c…` is nested; long ones are nobody's builtins.
                let Expr::Name(_) = attribute.value.as_ref() else { return None };
                Some(format!("{}.{}", self.path(&attribute.value)?, attribute.attr))
            }
            Expr::Named(named) => self.path(&named.value),
            _ => None,
        }
    }

    fn check_call(&mut self, call: &ExprCall) {
        let Some(path) = self.path(&call.func) else { return };
        if IMPORTERS.contains(&path.as_str()) {
            let named = call.arguments.find_argument_value("name", 0);
            if let Some(Expr::StringLiteral(module)) = named {
                self.check_module(call.start(), module.value.to_str());
            }
        }
        let builtin = path.split_once('.').map_or(path.as_str(), |(owner, name)| {
            if BUILTINS.contains(&owner) { name } else { "" }
        });
        if self.rules.forbidden_calls.iter().any(|forbidden| forbidden == builtin) {
            self.refuse(
                call.start(),
                ErrorCode::ForbiddenCall,
                format!("`{builtin}` may not be called"),
            );
        }
    }

    fn remember(&mut self, target: &Expr, value: &Expr) {
        let Expr::Name(target) = target else { return };
        match self.path(value) {
            Some(path) if self.is_of_interest(&path) => {
                self.names.insert(target.id.to_string(), path);
            }
            _ => {
                self.names.remove(target.id.as_str());
            }
        }
    }

    fn is_of_interest(&self, path: &str) -> bool {
        let last = path.rsplit('.').next().unwrap_or(path);
        let known: BTreeSet<&str> = self.rules.forbidden_calls.iter().map(String::as_str).collect();
        known.contains(last)
            || BUILTINS.contains(&path)
            || path == "importlib"
            || IMPORTERS.contains(&path)
    }
}

impl<'a> Visitor<'a> for Lint<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(import) => {
                for alias in &import.names {
                    self.check_module(alias.start(), &alias.name);
                    if let Some(name) = &alias.asname {
                        self.names.insert(name.to_string(), alias.name.to_string());
                    }
                }
            }
            Stmt::ImportFrom(import) if import.level > 0 => self.refuse(
                import.start(),
                ErrorCode::ForbiddenImport,
                "relative imports find nothing: a function is this one file, in no package"
                    .to_owned(),
            ),
            Stmt::ImportFrom(import) => {
                let module = import.module.as_deref().unwrap_or_default();
                self.check_module(import.start(), module);
                for alias in &import.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    let path = format!("{module}.{}", alias.name);
                    self.check_module(alias.start(), &path);
                    self.names.insert(name.to_string(), path);
                }
            }
            Stmt::Assign(assign) => {
                for target in &assign.targets {
                    self.remember(target, &assign.value);
                }
            }
            Stmt::AnnAssign(assign) => {
                if let Some(value) = &assign.value {
                    self.remember(&assign.target, value);
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Call(call) => self.check_call(call),
            Expr::Named(named) => self.remember(&named.target, &named.value),
            _ => {}
        }
        walk_expr(self, expr);
    }
}

#[cfg(test)]
mod tests {
    use ruff_python_ast::PythonVersion;

    use super::super::check as check_source;
    use super::*;

    fn verdict(source: &str) -> Result<(), (ErrorCode, String)> {
        check_source(source.as_bytes(), PythonVersion::PY311, &Rules::default())
            .map_err(|r| (r.code, r.message))
    }

    #[test]
    fn forbidden_modules_are_found_however_they_are_imported() {
        for source in [
            "import os",
            "import json, os",
            "import os.path as p",
            "from os import path",
            "from os.path import join",
            "from os import *",
            "def f():\n    import subprocess\n",
            "try:\n    import socket as s\nexcept ImportError:\n    pass\n",
            "__import__('os')",
            "__import__(name='os.path')",
            "x = [__import__('o' 's')]",
            "import importlib\nimportlib.import_module('os')",
            "import importlib as i\ni.import_module('os')",
            "from importlib import import_module\nimport_module('subprocess')",
            "from importlib import import_module as load\nload('subprocess')",
            "import builtins\nbuiltins.__import__('os')",
            "load = __import__\nload('os')",
            "if (load := __import__): load('os')",
        ] {
            assert_eq!(verdict(source).unwrap_err().0, ErrorCode::ForbiddenImport, "{source}");
        }
    }

    #[test]
    fn forbidden_calls_are_found_by_other_names_too() {
        for source in [
            "eval('1')",
            "x = f(lambda: eval('1'))",
            "import builtins\nbuiltins.eval('1')",
            "__builtins__.eval('1')",
            "from builtins import eval as e\ne('1')",
            "e = eval\ne('1')",
            "e: object = eval\ne('1')",
            "a = b = eval\nb('1')",
            "f'{eval(x)}'",
            "@eval('x')\ndef f(): pass\n",
            "def f(x=eval('1')): pass\n",
        ] {
            assert_eq!(verdict(source).unwrap_err().0, ErrorCode::ForbiddenCall, "{source}");
        }
    }

    #[test]
    fn what_only_looks_alike_is_fine() {
        for source in [
            "import oslo, ossaudiodev, socketserver2",
            "import numpy as os",
            "from mypkg import os",
            "import pandas as pd\npd.DataFrame().eval('a + b')",
            "x = 'import os; eval(1)'",
            "# import os",
            "evaluate(1)",
            "model.eval()",
            "e = eval\ne = print\ne(1)",
            "from ast import literal_eval\nliteral_eval('1')",
            "from __future__ import annotations",
            "__import__(name)",
        ] {
            assert_eq!(verdict(source), Ok(()), "{source}");
        }
    }

    #[test]
    fn a_relative_import_is_explained() {
        for source in ["from . import a", "from .a import b", "from .. import os"] {
            let (code, message) = verdict(source).unwrap_err();
            assert_eq!(code, ErrorCode::ForbiddenImport);
            assert!(message.contains("relative imports"), "{message}");
        }
    }

    #[test]
    fn the_first_finding_in_the_text_is_shown_with_its_place() {
        let (_, message) =
            verdict("import json\n\ndef main():\n    import json, os\n    eval('')\n").unwrap_err();
        assert!(message.starts_with("line 4, column 18: the module `os`"), "{message}");
        assert!(message.ends_with("    import json, os\n                 ^"), "{message}");
    }

    #[test]
    fn the_lists_are_configuration() {
        let rules = Rules {
            forbidden_imports: vec!["json.tool".into()],
            forbidden_calls: vec!["exec".into()],
            ..Rules::default()
        };
        let code = |source: &str| {
            check_source(source.as_bytes(), PythonVersion::PY311, &rules).map_err(|r| r.code)
        };
        assert_eq!(code("import os\neval('1')\nimport json\n"), Ok(()));
        assert_eq!(code("import json.tool"), Err(ErrorCode::ForbiddenImport));
        assert_eq!(code("from json import tool"), Err(ErrorCode::ForbiddenImport));
        assert_eq!(code("exec('1')"), Err(ErrorCode::ForbiddenCall));
    }
}
