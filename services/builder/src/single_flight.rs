//! One at a time for each key, within this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Whoever holds the guard of a key works alone on it. What he leaves in it, those find who waited for him.
#[derive(Debug)]
pub struct SingleFlight<T>(Mutex<HashMap<String, Weak<tokio::sync::Mutex<Option<T>>>>>);

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> SingleFlight<T> {
    /// Waits for the key. Dropping the guard, or the future, lets the next one in.
    pub async fn enter(&self, key: &str) -> OwnedMutexGuard<Option<T>> {
        let mutex = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, mutex| mutex.strong_count() > 0);
            match flights.get(key).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(tokio::sync::Mutex::new(None));
                    flights.insert(key.to_owned(), Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_key_is_held_by_one_and_others_are_free() {
        let flights = Arc::new(SingleFlight::default());
        let inside = Arc::new(AtomicUsize::new(0));
        let mut a = flights.enter("a").await;
        let b = flights.enter("b").await;
        assert_eq!((*a, *b), (None, None));
        let waiting: Vec<_> = (0..10)
            .map(|_| {
                let (flights, inside) = (Arc::clone(&flights), Arc::clone(&inside));
                tokio::spawn(async move {
                    let guard = flights.enter("a").await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    *guard
                })
            })
            .collect();
        // On this one thread: each has asked for the key.
        tokio::task::yield_now().await;
        assert_eq!(inside.load(Ordering::SeqCst), 0);
        *a = Some("made");
        drop(a);
        for task in waiting {
            assert_eq!(task.await.unwrap(), Some("made"));
        }
        // Whoever comes when nobody is left begins anew.
        assert_eq!(*flights.enter("a").await, None);
    }

    #[tokio::test]
    async fn keys_that_nobody_holds_are_forgotten() {
        let flights = SingleFlight::<()>::default();
        for i in 0..100 {
            drop(flights.enter(&i.to_string()).await);
        }
        assert_eq!(flights.0.lock().unwrap().len(), 1);
    }
}
