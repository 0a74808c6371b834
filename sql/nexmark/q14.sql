-- Nexmark q14, calculation: bids of a middling price in euros, with the time of day and how many letters c they hold.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE middling_bids STORED AS PARQUET LOCATION 'out/nexmark/q14/';

CREATE FLOW q14 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO middling_bids
SELECT auction, bidder, CAST(0.908 * price AS DECIMAL(23, 3)) AS price,
       CASE
         WHEN hour(date_time) >= 8 AND hour(date_time) <= 18 THEN 'dayTime'
         WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'nightTime'
         ELSE 'otherTime'
       END AS bid_time_type,
       date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_count
FROM STREAM bid
WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000;
