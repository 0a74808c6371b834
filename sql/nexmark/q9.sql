-- Nexmark q9, winning bids: each auction with its highest bid, of several the earliest. An auction is taken to last a
-- minute at most: it leaves once, when the watermark has passed that.

CREATE UNBOUNDED EXTERNAL TABLE auction (
  id BIGINT, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP,
  expires TIMESTAMP, seller BIGINT, category BIGINT, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/auction/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP, extra STRING,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE winning_bids STORED AS PARQUET LOCATION 'out/nexmark/q9/';

CREATE FLOW q9 OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO winning_bids
SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra,
       first_value(bidder ORDER BY price DESC, bid_date_time) AS bidder,
       max(price) AS price,
       first_value(bid_date_time ORDER BY price DESC, bid_date_time) AS bid_date_time,
       first_value(bid_extra ORDER BY price DESC, bid_date_time) AS bid_extra
FROM (
  SELECT a.*, b.bidder, b.price, b.date_time AS bid_date_time, b.extra AS bid_extra
  FROM STREAM auction AS a
  JOIN STREAM bid AS b
    ON a.id = b.auction AND b.date_time >= a.date_time AND b.date_time <= a.expires
    AND b.date_time <= a.date_time + INTERVAL '1' MINUTE
) AS valid_bids
GROUP BY id, item_name, description, initial_bid, reserve, date_time, expires, seller, category, extra;
