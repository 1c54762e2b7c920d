-- What the bazaar sells, and who bought it. The database needs the types vector and citext.
create type grade as enum ('A', 'B', 'C');
create domain price as numeric(10, 2) check (value >= 0);
create domain nested_price as price;

-- A composite key, a column of every scalar type, columns of types that nothing carries.
create table goods (
    vendor text,
    sku integer,
    bin smallint,
    pieces integer,
    barcode bigint,
    weight real,
    volume double precision,
    price nested_price,
    tax numeric,
    mass numeric(38, 10),
    fragile boolean,
    unit char(5),
    title varchar(80),
    description text,
    label citext,
    grade grade,
    batch uuid,
    made_on date,
    opens time,
    listed timestamp,
    updated timestamptz,
    warranty interval,
    seal bytea,
    details json,
    attributes jsonb,
    scanner inet,
    twice_pieces bigint generated always as (pieces::bigint * 2) stored,
    shelf point,
    sold_between int4range,
    odd numeric[],
    primary key (vendor, sku)
);

-- Lists and vectors.
create table measurements (
    id uuid primary key,
    small smallint[],
    whole integer[],
    big bigint[],
    single real[],
    double double precision[],
    words text[],
    codes varchar(5)[],
    truths boolean[],
    marks bytea[],
    days date[],
    instants timestamptz[],
    shape vector(3),
    half halfvec(2),
    grades grade[] default '{NULL,A}'
);

-- Names that have to be quoted, and a key that is no single column.
create table "Order Lines" (
    "Order Id" bigint,
    "Line No" smallint,
    "Vendor" text not null,
    "Region" text,
    "Unit Price" numeric(12, 4) not null,
    quantity integer not null,
    "Sold At" timestamp not null,
    primary key ("Order Id", "Line No")
);

create table orders (
    id bigint primary key,
    customer text,
    amount double precision not null,
    status text not null,
    note text,
    placed_at timestamptz
);
