-- Nexmark q3, local item suggestion: who sells in Oregon, Idaho or California in category 10, and in which auctions?
-- A person may sell at any time, so both sides are remembered for ever.

CREATE UNBOUNDED EXTERNAL TABLE person (
  id BIGINT, name STRING, city STRING, state STRING, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/person/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE auction (
  id BIGINT, date_time TIMESTAMP, seller BIGINT, category BIGINT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/auction/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE local_items STORED AS PARQUET LOCATION 'out/nexmark/q3/';

CREATE FLOW q3 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO local_items
SELECT p.name, p.city, p.state, a.id
FROM STREAM auction AS a
JOIN STREAM person AS p ON a.seller = p.id
WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca');
