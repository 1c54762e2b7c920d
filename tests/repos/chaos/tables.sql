-- v is unique to each written version of a row, over all tables.
create table accounts (
    id bigint primary key, owner text, balance double precision, tier text, bio text, v bigint not null
);
create table trades (
    id bigint primary key, account bigint, desk text, amount double precision, note text, at timestamptz,
    v bigint not null
);
create table articles (id bigint primary key, title text, body text, v bigint not null);
create table stock (sku bigint primary key, shelf bigint, on_hand bigint, at timestamptz, v bigint not null);
-- Which transactions were committed: of one whose connection broke nobody else can tell.
create table attempts (number bigint primary key);
