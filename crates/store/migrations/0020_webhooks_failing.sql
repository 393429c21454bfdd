-- Since when a receiver has taken no message, although some were tried: after days of it its webhook is disabled.

alter table webhooks add column failing_since timestamptz;
