-- Who is told of what by HTTP, each message that is to be delivered, and how its tries went.

create table webhooks (
    id uuid primary key,
    owner text not null,
    -- Null: all functions of the owner.
    function_id bigint references functions,
    url text not null,
    description text not null,
    -- Of: ready, rejected, failed, revoked, task_ended.
    events text[] not null,
    -- As the receiver has it (whsec_…): who signs must have the secret itself.
    secret text not null,
    -- The one before, with which messages are signed too until then.
    previous_secret text,
    previous_until timestamptz,
    enabled boolean not null default true,
    disabled_reason text,
    created_at timestamptz not null default now()
);

create index webhooks_owner on webhooks (owner, id);

create table webhook_deliveries (
    -- The receiver's webhook-id: the same at each try.
    id uuid primary key,
    webhook_id uuid not null references webhooks on delete cascade,
    -- The event's id on the bus: one that comes twice is one delivery.
    event_id text not null,
    event_type text not null,
    -- Sent as it is, so that each try is the same.
    body text not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'dead')),
    -- Counts the tries. The fence: what became of a try is recorded only for the newest.
    attempt integer not null default 0,
    -- A round is tries over a day; sending again begins the next one.
    round integer not null default 1,
    round_attempt integer not null default 0,
    give_up_at timestamptz not null,
    next_attempt_at timestamptz not null default now(),
    -- Whoever tries it now is taken for dead after this moment.
    leased_until timestamptz,
    -- Given up, and not yet with the dead letters.
    letter_due boolean not null default false,
    status integer,
    error text,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    unique (webhook_id, event_id)
);

create index webhook_deliveries_due on webhook_deliveries (webhook_id, next_attempt_at) where state = 'pending';
create index webhook_deliveries_page on webhook_deliveries (webhook_id, id);
-- Few, among all that were delivered.
create index webhook_deliveries_undelivered on webhook_deliveries (webhook_id, id) where state <> 'delivered';
create index webhook_deliveries_letters on webhook_deliveries (id) where letter_due;
create index webhook_deliveries_ended on webhook_deliveries (ended_at) where ended_at is not null;

create table webhook_attempts (
    delivery_id uuid not null references webhook_deliveries on delete cascade,
    attempt integer not null,
    began_at timestamptz not null,
    duration_ms bigint not null,
    -- What the receiver answered; null: nothing.
    status integer,
    error text,
    primary key (delivery_id, attempt)
);
