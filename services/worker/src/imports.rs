//! What a function's code says of how it wants to be started: which modules it imports before it does anything else, and
//! two lines that ask for something. Pure, and careful: what it does not understand ends the list.

/// More than any function begins with; a list that is passed as an argument has to end somewhere.
const LIMIT: usize = 32;

/// A line by which a function asks for an interpreter that has imported nothing for it.
const SWITCH: &str = "# mecapy: no-early-imports";

/// A line by which a function asks that its tasks may share a container, one after another, so many of them.
const REUSE: &str = "# mecapy: reuse ";

/// How many tasks one container may run. One, where the function does not say otherwise.
pub(crate) fn uses(code: &str) -> u32 {
    let asked = code.lines().find_map(|line| line.trim_end().strip_prefix(REUSE));
    asked.and_then(|number| number.trim().parse().ok()).unwrap_or(1).max(1)
}

/// Whether modules may be imported before the function's turn comes.
pub(crate) fn may_be_early(code: &str) -> bool {
    !code.lines().any(|line| line.trim_end() == SWITCH)
}

/// The modules of the leading `import` statements, in order.
pub(crate) fn leading(code: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        if line.is_empty() || is_short_docstring(line) {
            continue;
        }
        if let Some(quotes) = opens_docstring(line) {
            if lines.by_ref().any(|line| line.contains(quotes)) {
                continue;
            }
            break;
        }
        let Some(modules) = modules_of(line) else { break };
        if line.contains('(') && !line.contains(')') && !lines.by_ref().any(|l| l.contains(')')) {
            break;
        }
        for module in modules {
            if found.len() < LIMIT && !found.contains(&module) {
                found.push(module);
            }
        }
    }
    found
}

fn modules_of(line: &str) -> Option<Vec<String>> {
    if line.ends_with('\\') || line.contains(';') {
        return None;
    }
    if let Some(rest) = line.strip_prefix("from ") {
        let module = rest.split_once(" import ").map(|(module, _)| module.trim())?;
        return match module {
            "__future__" => Some(Vec::new()),
            module => is_module(module).then(|| vec![module.to_owned()]),
        };
    }
    let names = line.strip_prefix("import ")?.split(',');
    names
        .map(|name| {
            let module = name.split_once(" as ").map_or(name, |(module, _)| module).trim();
            is_module(module).then(|| module.to_owned())
        })
        .collect()
}

fn is_module(name: &str) -> bool {
    name.len() < 100
        && name.split('.').all(|part| {
            part.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
                && part.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        })
}

fn opens_docstring(line: &str) -> Option<&'static str> {
    ["\"\"\"", "'''"].into_iter().find(|quotes| line.starts_with(quotes))
}

fn is_short_docstring(line: &str) -> bool {
    opens_docstring(line).is_some_and(|quotes| {
        line.len() >= 6 && line.ends_with(quotes) && line.matches(quotes).count() == 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_imports_are_found() {
        let code = r#"#!/usr/bin/env python
"""What it does.

import not_this
"""
from __future__ import annotations

import json, sys  # both
import numpy as np
import scipy.stats as stats
from collections.abc import (
    Mapping,
)
from numpy import linalg

print(np)
import late
"#;
        assert_eq!(leading(code), ["json", "sys", "numpy", "scipy.stats", "collections.abc"]);
    }

    #[test]
    fn a_line_of_its_own_asks_for_no_early_imports() {
        assert!(may_be_early("import json\nprint('# mecapy: no-early-imports')"));
        assert!(!may_be_early("import json\n# mecapy: no-early-imports  \nprint(1)"));
    }

    #[test]
    fn a_line_of_its_own_asks_for_tasks_to_share_a_container() {
        for (code, expected) in [
            ("import json\n# mecapy: reuse 20 \n", 20),
            ("import json", 1),
            ("x = '# mecapy: reuse 20'", 1),
            ("# mecapy: reuse 0", 1),
            ("# mecapy: reuse -1", 1),
            ("# mecapy: reuse many", 1),
            ("# mecapy: reuse", 1),
        ] {
            assert_eq!(uses(code), expected, "{code}");
        }
    }

    #[test]
    fn what_comes_after_something_else_is_not_imported_ahead() {
        for code in [
            "x = 1\nimport json",
            "import json; import sys",
            "try:\n    import json\nexcept ImportError: pass",
            "import json \\\n, sys",
            "from . import json",
            "import --option",
            "\"\"\"never closed\nimport json",
            "from json import (\nloads",
            "",
        ] {
            assert_eq!(leading(code), [""; 0], "{code}");
        }
        assert_eq!(leading("'''one line'''\nimport json"), ["json"]);
    }
}
