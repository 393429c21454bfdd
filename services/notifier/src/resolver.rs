//! Names become addresses here and nowhere else, and what is connected to is what was checked.

use mecapy_webhooks::{Options, address, target::Refused};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The system's resolver. One address of a name that may not be called, and none of them is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked(pub Options);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let options = self.0;
        Box::pin(async move {
            // The port is the URL's: reqwest sets it.
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &found {
                if let Err(reason) = address::check(address.ip(), options) {
                    // The address itself is for operators: owners must not learn how names resolve in here.
                    tracing::warn!(
                        host = name.as_str(),
                        address = %address.ip(),
                        "a webhook leads to {reason}, which is not called"
                    );
                    return Err(Refused::Address(reason).into());
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolve(options: Options) -> Result<usize, String> {
        let resolved = Checked(options).resolve("localhost".parse().unwrap()).await;
        resolved.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_leads_nowhere() {
        let refused = resolve(Options::default()).await.unwrap_err();
        assert!(refused.contains("a loopback address"), "{refused}");
        let allowed = Options { allow_private: true, ..Options::default() };
        assert!(resolve(allowed).await.unwrap() > 0);
    }
}
