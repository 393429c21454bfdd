//! What makes a message an event: its subject, and the key that makes a second copy the same message.

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::v1;

/// An event of the pipeline.
pub trait Event: Message + Default + Serialize + DeserializeOwned + Clone + 'static {
    /// The NATS subject that it travels on, which is also its CloudEvents type.
    const SUBJECT: &'static str;

    /// Names this event among those of its subject: two messages with one key are one event.
    fn key(&self) -> String;

    /// The id under which it is published and remembered: `Nats-Msg-Id` and `ce-id`.
    fn message_id(&self) -> String {
        format!("{}/{}", Self::SUBJECT, self.key())
    }
}

/// Every subject, in the order of the pipeline.
pub const SUBJECTS: &[&str] = &[
    v1::BuildRequested::SUBJECT,
    v1::BuildDone::SUBJECT,
    v1::BuildFailed::SUBJECT,
    v1::ScanDone::SUBJECT,
    v1::ScanRevoked::SUBJECT,
    v1::PushDone::SUBJECT,
    v1::PushFailed::SUBJECT,
    v1::TaskDispatch::SUBJECT,
    v1::TaskDone::SUBJECT,
    v1::TaskCancel::SUBJECT,
    v1::BaseRequested::SUBJECT,
    v1::BaseBuild::SUBJECT,
    v1::BaseDone::SUBJECT,
    v1::MirrorRequested::SUBJECT,
    v1::MirrorImage::SUBJECT,
    v1::MirrorDone::SUBJECT,
    v1::CleanupRequested::SUBJECT,
    v1::CleanupDone::SUBJECT,
    v1::WebhookResend::SUBJECT,
];

macro_rules! event {
    ($type:ident, $subject:literal, $key:ident) => {
        impl Event for v1::$type {
            const SUBJECT: &'static str = $subject;

            fn key(&self) -> String {
                self.$key.clone()
            }
        }
    };
}

event!(BuildRequested, "build.requested", build_id);
event!(BuildDone, "build.done", build_id);
event!(BuildFailed, "build.failed", build_id);
event!(ScanDone, "scan.done", build_id);
event!(PushDone, "push.done", build_id);
event!(PushFailed, "push.failed", build_id);
event!(TaskDispatch, "task.dispatch", task_id);
event!(TaskCancel, "task.cancel", task_id);
event!(BaseRequested, "base.requested", run_id);
event!(BaseBuild, "base.build", build_id);
event!(BaseDone, "base.done", run_id);
event!(MirrorRequested, "mirror.requested", run_id);
event!(MirrorDone, "mirror.done", run_id);
event!(CleanupRequested, "cleanup.requested", run_id);
event!(CleanupDone, "cleanup.done", run_id);

impl Event for v1::MirrorImage {
    const SUBJECT: &'static str = "mirror.image";

    fn key(&self) -> String {
        // One digest may lie in several repositories.
        format!("{}/{}@{}", self.run_id, self.repository, self.digest)
    }
}

impl Event for v1::WebhookResend {
    const SUBJECT: &'static str = "webhook.resend";

    fn key(&self) -> String {
        format!("{}/{}", self.delivery_id, self.round)
    }
}

impl Event for v1::ScanRevoked {
    const SUBJECT: &'static str = "scan.revoked";

    fn key(&self) -> String {
        // Once revoked it may pass again with a later database, and be revoked by another after that.
        format!("{}/{}", self.build_id, self.database_version)
    }
}

impl Event for v1::TaskDone {
    const SUBJECT: &'static str = "task.done";

    fn key(&self) -> String {
        // One result a task is ever recorded, but each attempt may report its own end.
        format!("{}/{}", self.task_id, self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_the_same_as_protobuf_and_as_json() -> Result<(), Box<dyn std::error::Error>> {
        let event = v1::BuildRequested {
            build_id: "018f4e3e-0000-7000-8000-000000000000".into(),
            function_id: 456,
            owner: "acme".into(),
            version: 2,
            python_version: "3.11".into(),
            base_variant: "slim".into(),
            source: Some(v1::build_requested::Source::Code("print(1)\n".into())),
            requirements: "numpy\n".into(),
            requested_at: None,
        };
        let json = serde_json::to_value(&event)?;
        // The canonical mapping: lowerCamelCase names, 64-bit integers as strings.
        assert_eq!(json["functionId"], "456");
        assert_eq!(json["code"], "print(1)\n");
        assert_eq!(serde_json::from_value::<v1::BuildRequested>(json)?, event);
        assert_eq!(v1::BuildRequested::decode(event.encode_to_vec().as_slice())?, event);
        Ok(())
    }

    #[test]
    fn json_written_by_hand_is_taken_with_proto_names_numbers_and_unknown_fields()
    -> Result<(), Box<dyn std::error::Error>> {
        let event: v1::BuildRequested = serde_json::from_str(
            r#"{"build_id":"x","function_id":7,"python_version":"3.11","of_tomorrow":true}"#,
        )?;
        assert_eq!((event.function_id, event.python_version.as_str()), (7, "3.11"));
        Ok(())
    }

    #[test]
    fn an_unknown_enum_name_in_json_is_an_error() {
        assert!(serde_json::from_str::<v1::ScanDone>(r#"{"verdict":"MAYBE"}"#).is_err());
    }
}
