-- Nexmark q1, currency conversion: every bid with its price in euros.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE in_euros STORED AS PARQUET LOCATION 'out/nexmark/q1/';

CREATE FLOW q1 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO in_euros
SELECT auction, bidder, CAST(0.908 * price AS DECIMAL(23, 3)) AS price, date_time, extra FROM STREAM bid;
