//! Which worker a function's tasks go to first. Pure.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each live worker has a weight for each function, and the heaviest
//! is the function's home. All workers come to the same answer without asking each other, and when one comes or goes,
//! only the functions that it is home to move. The load is bounded by the workers themselves: a home without a free
//! slot takes nothing, and the task runs where it is.

use mecapy_proto::FunctionId;
use mecapy_registry::Digest;

/// The home of a function among these.
pub(crate) fn home<'w>(
    function: FunctionId,
    workers: impl IntoIterator<Item = &'w str>,
) -> Option<&'w str> {
    workers.into_iter().max_by_key(|worker| weight(function, worker))
}

fn weight(function: FunctionId, worker: &str) -> Digest {
    Digest::of(format!("{function}\0{worker}").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn function(id: i64) -> FunctionId {
        FunctionId::new(id).unwrap()
    }

    #[test]
    fn functions_spread_over_the_workers() {
        let workers = ["a:9100", "b:9100", "c:9100"];
        let mut homes: HashMap<&str, usize> = HashMap::new();
        for id in 1..=3_000 {
            *homes.entry(home(function(id), workers).unwrap()).or_default() += 1;
        }
        assert!(
            homes.len() == 3 && homes.values().all(|count| (900..1_100).contains(count)),
            "{homes:?}"
        );
        assert_eq!(home(function(1), []), None);
    }

    proptest! {
        #[test]
        fn when_a_worker_goes_only_its_own_functions_move(
            id in 1..i64::MAX,
            workers in prop::collection::btree_set("[a-z]{1,8}", 2..8),
            gone in any::<prop::sample::Index>(),
        ) {
            let all: Vec<&str> = workers.iter().map(String::as_str).collect();
            let gone = *gone.get(&all);
            let before = home(function(id), all.iter().copied()).unwrap();
            // In another order, too.
            let left = all.iter().rev().copied().filter(|worker| *worker != gone);
            let after = home(function(id), left).unwrap();
            prop_assert_eq!(after == before, before != gone);
        }
    }
}
