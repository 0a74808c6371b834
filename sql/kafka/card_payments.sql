-- Suspicious card payments: two large payments with one card, far from each other, within ten minutes.
--
--   cargo run --features kafka -- run sql/kafka/card_payments.sql
--
-- It is a join of the stream with itself, bounded in time. A pair leaves in the batch in which the later payment comes,
-- and it names both and the distance between them; payments are forgotten when no partner can come any more. A window
-- or session of each card, with the least and greatest latitude and longitude, would raise its alarm only when it is
-- over, would miss a pair on both sides of a window's edge, and would compare corners of a box instead of places.
--
-- sql/kafka/README.md says how to make the topics, and how to name another broker. The payments are made up.

-- The input: lines of text become messages as they are, the malformed one too. The card is the key, so that the
-- payments of a card are in one partition, in order.
CREATE EXTERNAL TABLE lines (value STRING) STORED AS TEXT LOCATION 'sql/data/payments/payments.ndjson';

CREATE EXTERNAL TABLE payments_topic STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'topic' 'millstream-payments', 'exactlyOnce' 'true');

CREATE FLOW fill TRIGGER AVAILABLE NOW CHECKPOINT 'out/kafka/card_payments/checkpoints/fill'
AS INSERT INTO payments_topic
SELECT regexp_extract(value, '"card":"([0-9]*)"', 1) AS key, value FROM STREAM lines;

-- The flows below read the same topic by another table, and so do not wait for the one above. A SELECT does.
SELECT count(*) AS payments FROM lines;

-- The same topic, as payments. Where a value is no JSON of this shape, the stream goes on: the value is in
-- _corrupt_record, and the other columns are NULL. Where it lies is in _partition and _offset.
CREATE UNBOUNDED EXTERNAL TABLE payments (
  payment INT, card STRING, amount DECIMAL(10, 2),
  place STRUCT<name STRING, latitude DOUBLE, longitude DOUBLE>, ts TIMESTAMP,
  _partition INT, _offset BIGINT, _corrupt_record STRING,
  WATERMARK FOR ts AS ts - INTERVAL '5' MINUTE
) STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'subscribe' 'millstream-payments', 'format' 'json',
         'startingOffsets' 'earliest', 'maxOffsetsPerTrigger' '20');

-- Dead letters: what could not be read, and where it is.
CREATE EXTERNAL TABLE dead_letters STORED AS PARQUET LOCATION 'out/kafka/card_payments/dead_letters/';

CREATE FLOW keep_dead_letters TRIGGER AVAILABLE NOW
AS INSERT INTO dead_letters
SELECT _partition, _offset, _corrupt_record FROM STREAM payments WHERE _corrupt_record IS NOT NULL;

-- Large payments, each with its place in radians, as the haversine formula below needs it.
CREATE VIEW large AS
SELECT payment, card, amount, ts, place.name AS place,
       radians(place.latitude) AS latitude, radians(place.longitude) AS longitude
FROM STREAM payments
WHERE amount >= 200;

-- The alerts, as JSON with the card as key, exactly once: readers of committed messages see each once, after any crash.
CREATE UNBOUNDED EXTERNAL TABLE alerts (
  _key STRING, card STRING, first_payment INT, first_place STRING, first_ts TIMESTAMP,
  second_payment INT, second_place STRING, second_ts TIMESTAMP, amount DECIMAL(11, 2), km DOUBLE
) STORED AS KAFKA
OPTIONS ('kafka.bootstrap.servers' 'localhost:9092', 'topic' 'millstream-alerts', 'format' 'json',
         'exactlyOnce' 'true', 'startingOffsets' 'earliest');

CREATE FLOW raise_alerts TRIGGER AVAILABLE NOW CHECKPOINT 'out/kafka/card_payments/checkpoints/raise_alerts'
AS INSERT INTO alerts
SELECT card AS _key, * FROM (
  SELECT a.card AS card, a.payment AS first_payment, a.place AS first_place, a.ts AS first_ts,
         b.payment AS second_payment, b.place AS second_place, b.ts AS second_ts, a.amount + b.amount AS amount,
         round(2 * 6371 * asin(sqrt(power(sin((b.latitude - a.latitude) / 2), 2)
           + cos(a.latitude) * cos(b.latitude) * power(sin((b.longitude - a.longitude) / 2), 2))), 0) AS km
  FROM large AS a
  JOIN large AS b ON a.card = b.card AND b.ts > a.ts AND b.ts <= a.ts + INTERVAL '10' MINUTE
) AS pairs
WHERE km > 100;

-- The alerts again, from their topic into Parquet.
CREATE EXTERNAL TABLE kept_alerts STORED AS PARQUET LOCATION 'out/kafka/card_payments/alerts/';

CREATE FLOW keep_alerts TRIGGER AVAILABLE NOW
AS INSERT INTO kept_alerts
SELECT card, first_ts, first_place, second_ts, second_place, amount, km FROM STREAM alerts;

SELECT card, first_place, second_place, first_ts, amount, km FROM kept_alerts ORDER BY first_ts, second_ts;

SELECT _partition, _offset, _corrupt_record FROM dead_letters;
