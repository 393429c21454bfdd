//! What a query of Prometheus asks for: its selectors, and the labels that it groups by. Whether it is a query at all is
//! for Prometheus to say.

/// Before a parenthesis with labels.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 20] = [
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "sum",
    "min",
    "max",
    "avg",
    "count",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "quantile",
    "count_values",
    "inf",
    "nan",
    "atan2",
];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pub selectors: Vec<Selector>,
    /// Those that it groups or matches by.
    pub labels: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    pub label: String,
    pub operator: String,
    pub value: String,
}

impl Selector {
    /// As it stands in a query.
    pub fn text(&self) -> String {
        let matchers: Vec<String> = self
            .matchers
            .iter()
            .map(|Matcher { label, operator, value }| format!("{label}{operator}{value:?}"))
            .collect();
        format!("{}{{{}}}", self.metric, matchers.join(","))
    }

    pub fn asks(&self, label: &str, value: &str) -> bool {
        self.matchers.iter().any(|matcher| matcher.label == label && matcher.value == value)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(String),
}

impl Query {
    pub fn read(query: &str) -> Self {
        let tokens = tokens(query);
        let sign = |at: usize, text: &str| tokens.get(at) == Some(&Token::Sign(text.to_owned()));
        let mut read = Self::default();
        let mut at = 0;
        while at < tokens.len() {
            let Token::Word(word) = &tokens[at] else {
                at += 1;
                continue;
            };
            at += 1;
            if GROUPING.contains(&word.as_str()) && sign(at, "(") {
                while at < tokens.len() && !sign(at, ")") {
                    if let Token::Word(label) = &tokens[at] {
                        read.labels.push(label.clone());
                    }
                    at += 1;
                }
            } else if !sign(at, "(") && !WORDS.contains(&word.to_lowercase().as_str()) {
                let mut matchers = Vec::new();
                if sign(at, "{") {
                    while at < tokens.len() && !sign(at, "}") {
                        if let [Token::Word(label), Token::Sign(operator), Token::Text(value), ..] =
                            &tokens[at..]
                        {
                            matchers.push(Matcher {
                                label: label.clone(),
                                operator: operator.clone(),
                                value: value.clone(),
                            });
                        }
                        at += 1;
                    }
                }
                read.selectors.push(Selector { metric: word.clone(), matchers });
            }
        }
        read
    }
}

/// Numbers, durations and ranges are left out.
fn tokens(query: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                let (text, length) = text(rest, first);
                tokens.push(Token::Text(text));
                length
            }
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            '0'..='9' | '.' => {
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
                let end = end.unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
            '=' | '!' if rest[1..].starts_with(['~', '=']) => {
                tokens.push(Token::Sign(rest[..2].to_owned()));
                2
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                tokens.push(Token::Sign(first.to_string()));
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

/// A quoted text without its escapes, and how long it is with its quotes.
fn text(from: &str, quote: char) -> (String, usize) {
    let mut text = String::new();
    let mut chars = from.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return (text, at + 1);
        }
        let c = if c == '\\' { chars.next().map_or(c, |(_, escaped)| escaped) } else { c };
        text.push(c);
    }
    (text, from.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_its_selectors_and_groups_by_its_labels() {
        let query = Query::read(
            r#"histogram_quantile(0.95, sum by (le, stage) (rate(a_bucket{x=~"b|\"c", le!="+Inf"}[5m])))
               > 240 or on (job) absent(up offset 15m) unless min_over_time(r:x:rate5m[1h]) * 1e3 > 0.5"#,
        );
        let selectors: Vec<String> = query.selectors.iter().map(Selector::text).collect();
        assert_eq!(selectors, [r#"a_bucket{x=~"b|\"c",le!="+Inf"}"#, "up{}", "r:x:rate5m{}"]);
        assert_eq!(query.labels, ["le", "stage", "job"]);
    }
}
