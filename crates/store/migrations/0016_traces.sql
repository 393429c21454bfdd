-- How builds and tasks went, step by step, as the services recorded it: what the waterfall is drawn from. And the trace
-- (W3C trace context) in which each was asked for, so that what is sent again goes on in it.

alter table builds
    add column traceparent text,
    -- One object for each time that a service had the build in hand: src/stages.rs.
    add column stages jsonb not null default '[]';

alter table tasks
    add column traceparent text,
    -- Attempts that another one has followed: their number, worker, and when they began.
    add column past_attempts jsonb not null default '[]';
