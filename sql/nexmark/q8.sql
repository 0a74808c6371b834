-- Nexmark q8, new users: who came and opened an auction within the same ten seconds?

CREATE UNBOUNDED EXTERNAL TABLE person (
  id BIGINT, name STRING, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/person/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE auction (
  date_time TIMESTAMP, seller BIGINT,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/auction/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE new_sellers STORED AS PARQUET LOCATION 'out/nexmark/q8/';

CREATE FLOW q8 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO new_sellers
SELECT p.id, p.name, p.window_start
FROM (
  SELECT DISTINCT window_start, window_end, id, name
  FROM TUMBLE(STREAM person, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
) AS p
JOIN (
  SELECT DISTINCT window_start, window_end, seller
  FROM TUMBLE(STREAM auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
) AS a
  ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end;
