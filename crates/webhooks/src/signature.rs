//! Signatures as Standard Webhooks 1.0 has them: HMAC-SHA256 over `{id}.{timestamp}.{body}`, in base64 after `v1,`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mecapy_service::Secret;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

const PREFIX: &str = "whsec_";
/// Of 24 to 64.
const SECRET_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the system gives no random bytes")]
    NoRandomness,
    #[error("a secret is whsec_ and base64")]
    NotASecret,
}

/// A new secret, as receivers get it: `whsec_` and base64.
pub fn new_secret() -> Result<Secret, Error> {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(Secret::new(format!("{PREFIX}{}", STANDARD.encode(bytes))))
}

/// The header `webhook-signature`: one signature a secret, so that a receiver may know either while they change.
pub fn sign(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> Result<String, Error> {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| {
            let key = secret.expose().strip_prefix(PREFIX).ok_or(Error::NotASecret)?;
            let key = STANDARD.decode(key).map_err(|_| Error::NotASecret)?;
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
            context.update(format!("{id}.{timestamp}.").as_bytes());
            context.update(body);
            Ok(format!("v1,{}", STANDARD.encode(context.sign())))
        })
        .collect::<Result<_, Error>>()?;
    if signatures.is_empty() { Err(Error::NotASecret) } else { Ok(signatures.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the test suites of the reference libraries.
    #[test]
    fn the_reference_vector_is_signed_as_the_reference_signs_it() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = sign(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.as_deref(), Ok("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn a_new_secret_is_long_enough_and_its_own_and_not_shown() {
        let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
        let key = STANDARD.decode(one.expose().strip_prefix("whsec_").unwrap()).unwrap();
        assert!((24..=64).contains(&key.len()));
        assert_ne!(one, other);
        assert_eq!(format!("{one:?}"), "***");
    }

    #[test]
    fn while_secrets_change_both_have_signed() {
        let (new, old) = (new_secret().unwrap(), new_secret().unwrap());
        let both = sign(&[new.clone(), old.clone()], "id", 1, b"{}").unwrap();
        let alone = |secret| sign(&[secret], "id", 1, b"{}").unwrap();
        assert_eq!(both, format!("{} {}", alone(new), alone(old)));
    }

    #[test]
    fn what_is_no_secret_signs_nothing() {
        for bad in ["", "whsec_", "whsec_***", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let signed = sign(&[Secret::new(bad)], "id", 1, b"");
            assert!(signed.is_err() || bad == "whsec_", "{bad}");
        }
        assert_eq!(sign(&[], "id", 1, b""), Err(Error::NotASecret));
    }
}
