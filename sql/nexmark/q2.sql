-- Nexmark q2, selection: the bids on every 123rd auction.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, price BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE some_bids STORED AS PARQUET LOCATION 'out/nexmark/q2/';

CREATE FLOW q2 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO some_bids
SELECT auction, price FROM STREAM bid WHERE auction % 123 = 0;
