-- Nexmark q7, highest bid: the bids with the highest price of each ten seconds.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE highest_bids STORED AS PARQUET LOCATION 'out/nexmark/q7/';

CREATE FLOW q7 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO highest_bids
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM STREAM bid AS b
JOIN (
  SELECT window_start, window_end, max(price) AS highest_price
  FROM TUMBLE(STREAM bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
  GROUP BY window_start, window_end
) AS highest
  ON b.price = highest.highest_price
  AND b.date_time >= highest.window_start AND b.date_time < highest.window_end;
