-- Nexmark q0, pass through: every bid as it is. What reading and writing alone cost.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE bids STORED AS PARQUET LOCATION 'out/nexmark/q0/';

CREATE FLOW q0 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO bids
SELECT auction, bidder, price, date_time, extra FROM STREAM bid;
