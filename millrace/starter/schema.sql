-- The example's tables; yours replace them.
CREATE TABLE customers (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    tier text NOT NULL,
    credit numeric(12, 2)
);
CREATE TABLE orders (
    order_id bigint PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    amount double precision NOT NULL,
    placed_at timestamptz NOT NULL
);
INSERT INTO customers VALUES (1, 'Ada', 'silver', 100), (2, 'Grace', 'gold', NULL);
INSERT INTO orders VALUES (10, 1, 25.5, now() - interval '2 days'), (11, 1, 12, now() - interval '1 day'), (12, 2, 80, now());
