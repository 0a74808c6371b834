-- Nexmark q17, auction statistics: bids by auction and day, in all and at three levels of price, and their prices.

CREATE UNBOUNDED EXTERNAL TABLE bid (
  auction BIGINT, price BIGINT, date_time TIMESTAMP,
  WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND
)
STORED AS JSON LOCATION 'sql/data/nexmark/bid/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE auctions STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW q17 OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO auctions
SELECT auction, date_format(date_time, 'yyyy-MM-dd') AS day,
       count(*) AS bids,
       count(*) FILTER (WHERE price < 10000) AS rank1_bids,
       count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
       count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
       min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
FROM STREAM bid
GROUP BY auction, date_format(date_time, 'yyyy-MM-dd');
