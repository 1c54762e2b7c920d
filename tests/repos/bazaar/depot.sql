-- Where the bazaar keeps its goods: another database, and a schema of its own.
create schema yard;

create table yard.stock (
    warehouse text,
    sku integer,
    on_hand integer not null,
    reserved integer not null default 0,
    counted_at timestamptz not null,
    primary key (sku, warehouse)
);

create table yard."Badges" (
    token bytea primary key,
    owner text not null,
    "validUntil" date
);
