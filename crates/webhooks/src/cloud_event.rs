//! What receivers get: an event as JSON, in the structured mode of CloudEvents 1.0.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// What Standard Webhooks advises payloads to stay below.
pub const MAX_BYTES: usize = 20_000;
/// The type of a message that says only that messages arrive.
pub const TEST_TYPE: &str = "webhook.test";

/// Of no use to owners: where we keep things, and on which machine.
const OURS: &[&str] = &["logKey", "lockKey", "reportKey", "sbomKey", "resultKey", "worker"];

/// An event to tell of.
#[derive(Debug, Clone)]
pub struct CloudEvent<'a> {
    /// As on the bus: an event that comes twice has the same.
    pub id: &'a str,
    /// As on the bus: `push.done`.
    pub kind: &'a str,
    pub function: i64,
    pub function_name: &'a str,
    pub owner: &'a str,
    /// The build or the task.
    pub subject: &'a str,
    pub time: DateTime<Utc>,
    /// The canonical JSON of the event.
    pub data: Value,
}

#[derive(Serialize)]
struct Body<'a> {
    specversion: &'static str,
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    /// Below the gateway's URL.
    source: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    owner: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    functionname: &'a str,
    /// The longest texts and lists of `data` were cut.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    data: &'a Value,
}

/// How texts and lists are cut until all fits: bytes, items.
const CUTS: [(usize, usize); 4] = [(2_000, 20), (500, 20), (200, 10), (50, 3)];

impl CloudEvent<'_> {
    /// The body. What is too large is cut, never split: it is always a whole document.
    pub fn into_json(mut self) -> String {
        forget_ours(&mut self.data);
        let whole = self.write(&self.data, false);
        if whole.len() <= MAX_BYTES {
            return whole;
        }
        for (text, list) in CUTS {
            let mut data = self.data.clone();
            cut(&mut data, text, list);
            let body = self.write(&data, true);
            if body.len() <= MAX_BYTES {
                return body;
            }
        }
        self.write(&Value::Object(Map::new()), true)
    }

    fn write(&self, data: &Value, truncated: bool) -> String {
        let body = Body {
            specversion: "1.0",
            id: self.id,
            kind: self.kind,
            source: match self.function {
                0 => "/webhooks".to_owned(),
                function => format!("/functions/{function}"),
            },
            subject: self.subject,
            time: self.time.to_rfc3339_opts(SecondsFormat::Millis, true),
            datacontenttype: "application/json",
            owner: self.owner,
            functionname: self.function_name,
            truncated,
            data,
        };
        // Texts, numbers and lists of them: nothing in it can't be written.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

fn forget_ours(data: &mut Value) {
    if let Value::Object(fields) = data {
        fields.retain(|name, _| !OURS.contains(&name.as_str()));
    }
}

fn cut(value: &mut Value, text: usize, list: usize) {
    match value {
        Value::String(string) if string.len() > text => {
            string.truncate(string.floor_char_boundary(text));
            string.push('…');
        }
        Value::Array(items) => {
            items.truncate(list);
            items.iter_mut().for_each(|item| cut(item, text, list));
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| cut(field, text, list)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(data: Value) -> CloudEvent<'static> {
        CloudEvent {
            id: "push.done/018f4e3e-0000-7000-8000-000000000000",
            kind: "push.done",
            function: 7,
            function_name: "stats",
            owner: "acme",
            subject: "018f4e3e-0000-7000-8000-000000000000",
            time: DateTime::UNIX_EPOCH,
            data,
        }
    }

    #[test]
    fn an_event_has_every_attribute_that_cloud_events_requires_and_none_with_another_alphabet() {
        let body: Value = serde_json::from_str(&event(json!({"image": "x"})).into_json()).unwrap();
        for attribute in ["specversion", "id", "type", "source"] {
            assert!(body[attribute].as_str().is_some_and(|value| !value.is_empty()), "{attribute}");
        }
        assert_eq!(body["specversion"], "1.0");
        assert_eq!(body["source"], "/functions/7");
        assert_eq!(body["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(body["data"], json!({"image": "x"}));
        for name in body.as_object().unwrap().keys() {
            let fine = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            assert!(fine && name.len() <= 20, "{name}");
        }
    }

    #[test]
    fn where_we_keep_things_is_not_told() {
        let data = json!({"logKey": "logs/x", "worker": "host-1", "status": "FAILED"});
        let body: Value = serde_json::from_str(&event(data).into_json()).unwrap();
        assert_eq!(body["data"], json!({"status": "FAILED"}));
    }

    #[test]
    fn what_is_too_large_is_cut_and_says_so() {
        let lines: Vec<String> = (0..100).map(|_| "ä".repeat(10_000)).collect();
        let data = json!({"failure": {"code": "build-failed", "message": "m", "logTail": lines}});
        let text = event(data).into_json();
        assert!(text.len() <= MAX_BYTES);
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(body["truncated"], true);
        assert_eq!(body["data"]["failure"]["code"], "build-failed");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "(?s).{0,200}".prop_map(Value::from),
            ("(?s).", 1_usize..4_000).prop_map(|(text, times)| Value::from(text.repeat(times))),
        ];
        leaf.prop_recursive(4, 64, 16, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..16).prop_map(Value::from),
                prop::collection::hash_map("(?s).{0,8}", inner, 0..16)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever users have put in (names, logs, error texts): one JSON document of a bounded size, on one line.
        #[test]
        fn a_body_is_bounded_and_whole(data in any_json()) {
            let text = event(data.clone()).into_json();
            prop_assert!(text.len() <= MAX_BYTES);
            prop_assert!(!text.contains(|c: char| c < ' '));
            let body: Value = serde_json::from_str(&text).unwrap();
            if body.get("truncated").is_none() {
                let mut told = data;
                forget_ours(&mut told);
                prop_assert_eq!(&body["data"], &told);
            }
        }
    }
}
