//! A task's inputs: from the event or from S3, and JSON.

use bytes::Bytes;
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::{ErrorCode, TaskId};

use crate::error::Problem;
use crate::json;

/// 10 MiB.
pub(crate) const LIMIT_BYTES: usize = 10 << 20;
/// Where producers lay inputs.
const PREFIX: &str = "inputs/";
/// What a function without inputs reads.
const NONE: &[u8] = b"{}";

/// The inputs, checked. `stored` is where the task's row says they are.
pub(crate) async fn read(
    objects: &Objects,
    task: TaskId,
    inputs: Option<&Inputs>,
    stored: Option<&str>,
) -> Result<Bytes, Problem> {
    let key = match (inputs, stored) {
        (Some(Inputs::InputsJson(text)), _) => {
            return check(Bytes::copy_from_slice(text.as_bytes()));
        }
        (Some(Inputs::InputsS3Key(key)), _) => key,
        (None, Some(key)) => key,
        (None, None) => return Ok(Bytes::from_static(NONE)),
    };
    // The bucket holds other people's inputs and results as well.
    if !key.starts_with(PREFIX) && key != Key::task_inputs(task).as_str() {
        return Err(Problem::refused(
            ErrorCode::InvalidInputs,
            format!("{key:?} is no key of inputs: a producer's begin with {PREFIX}"),
        ));
    }
    match objects.get(&Key::given(key), LIMIT_BYTES as u64).await {
        Ok(Some(bytes)) => check(bytes),
        Ok(None) => {
            Err(Problem::refused(ErrorCode::InvalidInputs, format!("there are no inputs at {key}")))
        }
        Err(mecapy_objects::Error::TooLarge { .. }) => Err(too_large()),
        Err(error) => Err(error.into()),
    }
}

fn check(bytes: Bytes) -> Result<Bytes, Problem> {
    if bytes.len() > LIMIT_BYTES {
        return Err(too_large());
    }
    match json::problem(&bytes) {
        None => Ok(bytes),
        Some(problem) => Err(Problem::refused(
            ErrorCode::InvalidInputs,
            format!("the inputs are not JSON: {problem}"),
        )),
    }
}

fn too_large() -> Problem {
    Problem::refused(
        ErrorCode::InputsTooLarge,
        format!("the inputs have more than {LIMIT_BYTES} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use mecapy_proto::v1::Failure;

    use super::*;

    fn code(bytes: impl Into<Bytes>) -> Option<String> {
        match check(bytes.into()) {
            Ok(_) => None,
            Err(Problem::Refused(Failure { code, .. })) => Some(code),
            Err(Problem::Passing(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn inputs_are_json_within_the_limit() {
        assert_eq!(code(&b"{\"n\": 1}"[..]), None);
        assert_eq!(code(&b"[1, 2"[..]).as_deref(), Some("invalid-inputs"));
        assert_eq!(code(&b""[..]).as_deref(), Some("invalid-inputs"));
        assert_eq!(code(vec![b' '; LIMIT_BYTES + 1]).as_deref(), Some("inputs-too-large"));
        let longest = [vec![b' '; LIMIT_BYTES - 1], b"1".to_vec()].concat();
        assert_eq!(code(longest), None);
    }
}
