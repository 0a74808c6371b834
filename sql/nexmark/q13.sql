-- Nexmark q13, bounded side input: every bid with what a table says of its auction.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE side_input (key BIGINT, value STRING)
STORED AS CSV LOCATION 'sql/data/nexmark/side_input.csv' OPTIONS ('format.has_header' 'true');

CREATE EXTERNAL TABLE enriched STORED AS PARQUET LOCATION 'out/nexmark/q13/';

CREATE FLOW q13 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO enriched
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM STREAM bid AS b
JOIN side_input FOR SYSTEM_TIME AS OF PROCTIME() AS s ON b.auction % 1000 = s.key;
