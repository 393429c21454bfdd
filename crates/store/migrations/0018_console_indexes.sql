-- What the console's lists go by. The states that are rare have indexes of their own: a list of them must not read
-- through a million tasks that succeeded.

create index functions_owner_newest on functions (owner, id desc) where deleted_at is null;
create index functions_name on functions (name text_pattern_ops) where deleted_at is null;

create index builds_requested on builds (requested_at desc, id desc) where function_id is not null;
create index builds_ended_badly on builds (state, requested_at desc, id desc) where state in ('failed', 'rejected');

create index tasks_created on tasks (created_at desc, id desc);
create index tasks_ended_badly on tasks (state, created_at desc, id desc)
    where state in ('failed', 'timed_out', 'oom', 'cancelled', 'lost');
create index tasks_failover on tasks (created_at desc, id desc) where cache = 'FAILOVER';

create index scans_revoked on scans (revoked_at desc) where revoked_at is not null;
