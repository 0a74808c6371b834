-- Nexmark q10, log to files: every bid once, in folders by day and minute.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE bid_log STORED AS CSV LOCATION 'out/nexmark/q10/' PARTITIONED BY (dt, hm)
OPTIONS ('format.has_header' 'true');

CREATE FLOW q10 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO bid_log
SELECT auction, bidder, price, date_time, extra,
       date_format(date_time, 'yyyy-MM-dd') AS dt, date_format(date_time, 'HH:mm') AS hm
FROM STREAM bid;
