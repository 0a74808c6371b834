-- Changes of a database's table, as Debezium writes them to a topic: all of them kept, and the table as it is now.
--
--   cargo run --features kafka -- run sql/kafka/debezium.sql
--
-- sql/kafka/README.md says how to make the topic, and how to name another broker. The customers are made up.

-- Messages of such a topic: the key is the row's, the value says what was done and how the row was before and after.
-- After a delete comes a message without a value, a tombstone, by which Kafka may forget the key.
CREATE EXTERNAL TABLE messages (key STRING, value STRING)
STORED AS JSON LOCATION 'sql/data/debezium/customers.ndjson';

CREATE EXTERNAL TABLE customers_topic STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'topic' 'millstream-customers', 'exactlyOnce' 'true');

CREATE FLOW fill TRIGGER AVAILABLE NOW CHECKPOINT 'out/kafka/debezium/checkpoints/fill'
AS INSERT INTO customers_topic SELECT key, value FROM STREAM messages;

-- The flows below read the same topic by another table, and so do not wait for the one above. A SELECT does.
SELECT count(*) AS messages FROM messages;

-- The columns are those of the row: as it is after the change, or as it was before a delete. _op is c (created),
-- u (updated), d (deleted) or r (read, when Debezium first looked at the table), and NULL in a tombstone.
CREATE UNBOUNDED EXTERNAL TABLE changes (
  id BIGINT, name STRING, city STRING, credit INT, _op STRING, _partition INT, _offset BIGINT
) STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'subscribe' 'millstream-customers', 'format' 'debezium',
         'startingOffsets' 'earliest');

-- Every change, as rows.
CREATE EXTERNAL TABLE history STORED AS PARQUET LOCATION 'out/kafka/debezium/history/';

CREATE FLOW keep_changes TRIGGER AVAILABLE NOW
AS INSERT INTO history
SELECT id, _op, name, city, credit, _partition, _offset FROM STREAM changes WHERE _op IS NOT NULL;

-- The table as it is now: of each customer the last change, unless that is a delete. The changes of a customer are in
-- one partition, since the key says which, and there the offset tells their order.
CREATE EXTERNAL TABLE customers STORED AS MEMORY;

CREATE FLOW keep_customers OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO customers
SELECT id, max_by(name, _offset) AS name, max_by(city, _offset) AS city, max_by(credit, _offset) AS credit
FROM STREAM changes
WHERE _op IS NOT NULL
GROUP BY id
HAVING max_by(_op, _offset) <> 'd';

SELECT * FROM customers ORDER BY id;

SELECT _op, name, city, credit FROM history WHERE id = 1 ORDER BY _offset;
